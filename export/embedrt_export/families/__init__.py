"""Architecture families: one module each, from config and weights to the graph of `token_embeddings`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from embedrt_export.families import albert, bert, distilbert, mpnet, pre_norm, roformer
from embedrt_export.graph import GraphBuilder
from embedrt_export.layers import TextInputs
from embedrt_export.weights import Weights


@dataclass(frozen=True)
class Family:
    """What the pipeline needs to know of a family.

    Attributes:
        read_config: From the parsed `config.json` to the family's own config, or an error that names the key.
        prefixes: What the names of the backbone's tensors start with in repos that were saved with a head.
        backbone: What they start with after that; a tensor there that the graph does not use is an error.
        positions: How many tokens the position embeddings reach, or None without limit.
        build: Adds the graph and returns the hidden states `[tokens, hidden]`: after the embeddings, after every layer,
            and as the last the token embeddings, with the final norm where the family has one.
        renames: Other names under which repos store tensors: patterns of `re` for whole names without prefix, and what
            `build` asks for instead.
        ignored: Patterns of tensors of the backbone that no encoder needs.
    """

    read_config: Callable[[Mapping[str, Any]], Any]
    prefixes: tuple[str, ...]
    backbone: tuple[str, ...]
    positions: Callable[[Any], int | None]
    build: Callable[[GraphBuilder, Any, Weights, TextInputs], list[str]]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


def _bert(defaults: Mapping[str, Any], prefix: str) -> Family:
    return Family(
        read_config=partial(bert.read_config, defaults=defaults),
        prefixes=(prefix,),
        backbone=("embeddings.", "embeddings_project.", "encoder."),
        positions=bert.positions,
        build=bert.build,
    )


def _pre_norm(variant: pre_norm.Variant, prefix: str) -> Family:
    return Family(
        read_config=partial(bert.read_config, defaults=variant.defaults),
        prefixes=(prefix,),
        backbone=("embeddings.", "encoder.", "LayerNorm."),
        positions=bert.positions,
        build=partial(pre_norm.build, variant=variant),
    )


FAMILIES: dict[str, Family] = {
    "albert": Family(albert.read_config, ("albert.",), ("embeddings.", "encoder."), albert.positions, albert.build),
    "bert": _bert(bert.BERT, "bert."),
    "bert-generation": _bert(bert.BERT_GENERATION, "bert."),
    "camembert": _bert(bert.XLM_ROBERTA, "roberta."),
    "data2vec-text": _bert(bert.XLM_ROBERTA, "data2vec_text."),
    "distilbert": Family(
        distilbert.read_config,
        ("distilbert.",),
        ("embeddings.", "transformer."),
        distilbert.positions,
        distilbert.build,
    ),
    "electra": _bert(bert.ELECTRA, "electra."),
    "ernie": _bert(bert.ERNIE, "ernie."),
    "megatron-bert": _pre_norm(pre_norm.MEGATRON_BERT, "bert."),
    "mpnet": Family(mpnet.read_config, ("mpnet.",), ("embeddings.", "encoder."), mpnet.positions, mpnet.build),
    "roberta": _bert(bert.ROBERTA, "roberta."),
    "roberta-prelayernorm": _pre_norm(pre_norm.ROBERTA_PRE_LAYER_NORM, "roberta_prelayernorm."),
    "roformer": Family(
        roformer.read_config,
        ("roformer.",),
        ("embeddings.", "embeddings_project.", "encoder."),
        roformer.positions,
        roformer.build,
    ),
    "xlm-roberta": _bert(bert.XLM_ROBERTA, "roberta."),
    "xlm-roberta-xl": _pre_norm(pre_norm.XLM_ROBERTA_XL, "roberta."),
}
"""By the `model_type` of config.json."""

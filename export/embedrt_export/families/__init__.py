"""Architecture families: one module each, from config and weights to the graph of `token_embeddings`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from embedrt_export import decoder
from embedrt_export.families import (
    albert,
    bert,
    deberta_v2,
    distilbert,
    gemma3,
    llama,
    mpnet,
    roformer,
    t5,
    xlm_roberta_xl,
)
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


_LLAMA = Family(
    llama.read_config, decoder.PREFIXES, decoder.BACKBONE, llama.positions, llama.build, ignored=decoder.IGNORED
)

_T5 = Family(
    t5.read_config, (), ("shared.", "encoder."), t5.positions, t5.build, ignored=(r"encoder\.embed_tokens\.weight",)
)

FAMILIES: dict[str, Family] = {
    "albert": Family(albert.read_config, ("albert.",), ("embeddings.", "encoder."), albert.positions, albert.build),
    "bert": _bert(bert.BERT, "bert."),
    "bert-generation": _bert(bert.BERT_GENERATION, "bert."),
    "camembert": _bert(bert.XLM_ROBERTA, "roberta."),
    "data2vec-text": _bert(bert.XLM_ROBERTA, "data2vec_text."),
    "deberta-v2": Family(
        deberta_v2.read_config,
        ("deberta.",),
        ("embeddings.", "encoder."),
        deberta_v2.positions,
        deberta_v2.build,
        ignored=(r"embeddings\.position_embeddings\.weight",),  # stored by repos whose config leaves it out
    ),
    "distilbert": Family(
        distilbert.read_config,
        ("distilbert.",),
        ("embeddings.", "transformer."),
        distilbert.positions,
        distilbert.build,
    ),
    "electra": _bert(bert.ELECTRA, "electra."),
    "ernie": _bert(bert.ERNIE, "ernie."),
    "gemma3_text": Family(
        gemma3.read_config, decoder.PREFIXES, decoder.BACKBONE, gemma3.positions, gemma3.build, ignored=decoder.IGNORED
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mpnet": Family(mpnet.read_config, ("mpnet.",), ("embeddings.", "encoder."), mpnet.positions, mpnet.build),
    "mt5": _T5,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _bert(bert.ROBERTA, "roberta."),
    "roformer": Family(
        roformer.read_config,
        ("roformer.",),
        ("embeddings.", "embeddings_project.", "encoder."),
        roformer.positions,
        roformer.build,
    ),
    "t5": _T5,
    "xlm-roberta": _bert(bert.XLM_ROBERTA, "roberta."),
    "xlm-roberta-xl": Family(
        xlm_roberta_xl.read_config,
        ("roberta.",),
        ("embeddings.", "encoder."),
        bert.positions,
        xlm_roberta_xl.build,
    ),
}
"""By the `model_type` of config.json."""

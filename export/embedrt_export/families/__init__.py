"""Architecture families: one module each, from config and weights to the graph of `token_embeddings`."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from embedrt.errors import ExportError
from embedrt_export.blocks import decoder, rotary_encoder
from embedrt_export.families import (
    albert,
    bert,
    deberta_v2,
    distilbert,
    eurobert,
    gemma3,
    gte,
    jina_embeddings_v3,
    llama,
    modernbert,
    mpnet,
    nomic_bert,
    pre_norm,
    roformer,
    t5,
)
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.linear import TextInputs
from embedrt_export.source.weights import Weights

logger = logging.getLogger("embedrt.export")


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
        needs_own_code: Whether transformers can run a model of this config only with code from the repo.
        tasks: The tasks for which a model has adapters; `task` of its config is the one that `build` puts in.
    """

    read_config: Callable[[Mapping[str, Any]], Any]
    prefixes: tuple[str, ...]
    backbone: tuple[str, ...]
    positions: Callable[[Any], int | None]
    build: Callable[[GraphBuilder, Any, Weights, TextInputs], list[str]]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    needs_own_code: Callable[[Mapping[str, Any]], bool] = lambda _: False
    tasks: Callable[[Any], tuple[str, ...]] = lambda _: ()


def _rotary(
    read_config: Callable[[Mapping[str, Any]], Any],
    prefixes: tuple[str, ...],
    renames: tuple[tuple[str, str], ...],
    needs_own_code: Callable[[Mapping[str, Any]], bool],
) -> Family:
    return Family(
        read_config=read_config,
        prefixes=prefixes,
        backbone=rotary_encoder.BACKBONE,
        positions=rotary_encoder.positions,
        build=rotary_encoder.build,
        renames=renames,
        ignored=rotary_encoder.IGNORED,
        needs_own_code=needs_own_code,
        tasks=lambda config: tuple(config.tasks),
    )


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
    "eurobert": Family(
        eurobert.read_config,
        decoder.PREFIXES,
        decoder.BACKBONE,
        eurobert.positions,
        eurobert.build,
        ignored=decoder.IGNORED,
    ),
    "gemma3_text": Family(
        gemma3.read_config, decoder.PREFIXES, decoder.BACKBONE, gemma3.positions, gemma3.build, ignored=decoder.IGNORED
    ),
    "gte": _rotary(gte.read_config, gte.PREFIXES, gte.RENAMES, gte.needs_own_code),
    "jina_embeddings_v3": _rotary(
        jina_embeddings_v3.read_config,
        jina_embeddings_v3.PREFIXES,
        jina_embeddings_v3.RENAMES,
        jina_embeddings_v3.is_hub,
    ),
    "llama": _LLAMA,
    "megatron-bert": _pre_norm(pre_norm.MEGATRON_BERT, "bert."),
    "mistral": _LLAMA,
    "modernbert": Family(
        modernbert.read_config,
        ("model.",),
        ("embeddings.", "layers.", "final_norm."),
        modernbert.positions,
        modernbert.build,
    ),
    "mpnet": Family(mpnet.read_config, ("mpnet.",), ("embeddings.", "encoder."), mpnet.positions, mpnet.build),
    "mt5": _T5,
    "nomic_bert": _rotary(nomic_bert.read_config, nomic_bert.PREFIXES, nomic_bert.RENAMES, nomic_bert.is_hub),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _bert(bert.ROBERTA, "roberta."),
    "roberta-prelayernorm": _pre_norm(pre_norm.ROBERTA_PRE_LAYER_NORM, "roberta_prelayernorm."),
    "roformer": Family(
        roformer.read_config,
        ("roformer.",),
        ("embeddings.", "embeddings_project.", "encoder."),
        roformer.positions,
        roformer.build,
    ),
    "t5": _T5,
    "xlm-roberta": _bert(bert.XLM_ROBERTA, "roberta."),
    "xlm-roberta-xl": _pre_norm(pre_norm.XLM_ROBERTA_XL, "roberta."),
}
"""By `family_name`."""

_OTHER_NAMES = {"new": "gte"}  # model types of hub repos that are made for code of their own


def family_name(config: Mapping[str, Any], model_type: str) -> str:
    """The family of a model: its `model_type`, but for hub repos that call it otherwise.

    Args:
        config: The parsed config.json.
        model_type: The model type in it.
    """
    if jina_embeddings_v3.is_hub(config):
        return "jina_embeddings_v3"
    return _OTHER_NAMES.get(model_type, model_type)


def is_native(config: Mapping[str, Any], model_type: str) -> bool:
    """Whether transformers runs a model without code from its repo."""
    family = FAMILIES.get(family_name(config, model_type))
    return not (config.get("auto_map") if family is None else family.needs_own_code(config))


def choose_task(family: Family, config: Any, task: str | None) -> Any:
    """The config with a task chosen; None leaves the model as it is without adapters.

    Raises:
        ExportError: The model has no such task.
    """
    tasks = family.tasks(config)
    if task is None:
        if tasks:
            logger.warning(
                "the model has adapters for the tasks %s, and none was chosen: they are left out", ", ".join(tasks)
            )
        return config
    if task not in tasks:
        known = f"it has {', '.join(tasks)}" if tasks else "it has none; leave the task out"
        raise ExportError(f"task {task!r}: the model has no adapter for it; {known}")
    return dataclasses.replace(config, task=task)

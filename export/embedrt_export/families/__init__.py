"""Architecture families: one file and one entry each, from config and weights to token embeddings."""

from collections.abc import Mapping
from typing import Any

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
from embedrt_export.families.family import Family, choose_task

__all__ = ["FAMILIES", "Family", "choose_task", "family_name", "is_native"]

FAMILIES: dict[str, Family] = {
    "albert": albert.FAMILY,
    "bert": bert.BERT,
    "bert-generation": bert.BERT_GENERATION,
    "camembert": bert.XLM_ROBERTA,
    "data2vec-text": bert.DATA2VEC_TEXT,
    "deberta-v2": deberta_v2.FAMILY,
    "distilbert": distilbert.FAMILY,
    "electra": bert.ELECTRA,
    "ernie": bert.ERNIE,
    "eurobert": eurobert.FAMILY,
    "gemma3_text": gemma3.FAMILY,
    "gte": gte.FAMILY,
    "jina_embeddings_v3": jina_embeddings_v3.FAMILY,
    "llama": llama.FAMILY,
    "megatron-bert": pre_norm.MEGATRON_BERT,
    "mistral": llama.FAMILY,
    "modernbert": modernbert.FAMILY,
    "mpnet": mpnet.FAMILY,
    "mt5": t5.FAMILY,
    "nomic_bert": nomic_bert.FAMILY,
    "qwen2": llama.FAMILY,
    "qwen3": llama.FAMILY,
    "roberta": bert.ROBERTA,
    "roberta-prelayernorm": pre_norm.ROBERTA_PRE_LAYER_NORM,
    "roformer": roformer.FAMILY,
    "t5": t5.FAMILY,
    "xlm-roberta": bert.XLM_ROBERTA,
    "xlm-roberta-xl": pre_norm.XLM_ROBERTA_XL,
}
"""By `family_name`."""


def family_name(config: Mapping[str, Any], model_type: str) -> str:
    """Name of a model's family: its `model_type`, except for hub repos that use another one.

    Args:
        config: The parsed config.json.
        model_type: The model type in it.
    """
    claimed = (name for name, family in FAMILIES.items() if family.claims(config) or model_type in family.aliases)
    return next(claimed, model_type)


def is_native(config: Mapping[str, Any], model_type: str) -> bool:
    """True if transformers runs a model without code from its repo."""
    family = FAMILIES.get(family_name(config, model_type))
    return not (config.get("auto_map") if family is None else family.needs_own_code(config))

"""Encoders with rotary positions: configs that would change the numbers are refused by name."""

from typing import Any

import pytest

from embedrt.errors import UnsupportedModelError
from embedrt_export.families import FAMILIES, family_name
from embedrt_export.source.unsupported import check_supported

NOMIC = {
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "vocab_size": 139,
    "activation_function": "swiglu",
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
}
JINA = {
    "model_type": "xlm-roberta",
    "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
    "position_embedding_type": "rotary",
    "rotary_emb_base": 20000.0,
}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("modernbert", {"hidden_size": 770}, "not a multiple of num_attention_heads"),
    ("modernbert", {"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer"),
    ("modernbert", {"num_hidden_layers": 3, "layer_types": ["full_attention"]}, "layer_types has 1 entries"),
    ("modernbert", {"layer_types": ["chunked_attention"]}, "layer_types.0.: expected one of 'full_attention'"),
    ("modernbert", {"local_rope_theta": None}, "local_rope_theta is null"),
    ("modernbert", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is not supported"),
    ("modernbert", {"rope_parameters": {"rope_theta": 5.0}}, "unknown field 'rope_theta'"),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}},
        "rope_parameters.full_attention: partial_rotary_factor 0.5",
    ),
    (
        "modernbert",
        {"rope_parameters": {"sliding_attention": {"rope_type": "dynamic", "factor": 2.0}}},
        "sliding_attention.rope_type: expected one of",
    ),
    ("nomic_bert", {"hidden_size": 770}, "not a multiple of num_attention_heads"),
    ("nomic_bert", {"hidden_size": 36}, "heads of width 3: rotary positions rotate pairs"),
    ("nomic_bert", {"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer, got 0"),
    ("nomic_bert", {"type_vocab_size": -1}, "type_vocab_size: expected 0 or more"),
    ("nomic_bert", {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type: expected one of"),
    ("nomic_bert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
    ("nomic_bert", {"rope_theta": "10"}, "rope_theta: expected a number"),
    ("nomic_bert", {**NOMIC, "rotary_emb_fraction": 0.0}, "rotary_emb_fraction 0.0 is not supported"),
    ("nomic_bert", {**NOMIC, "rotary_emb_interleaved": True}, "rotary_emb_interleaved: expected one of False"),
    ("nomic_bert", {**NOMIC, "rotary_emb_scale_base": 512.0}, "rotary_emb_scale_base: expected one of None"),
    ("nomic_bert", {**NOMIC, "activation_function": "gelu_new"}, "activation_function: expected one of 'swiglu'"),
    ("nomic_bert", {**NOMIC, "prenorm": True}, "prenorm: expected one of False"),
    ("nomic_bert", {**NOMIC, "parallel_block": True}, "parallel_block: expected one of False"),
    ("nomic_bert", {**NOMIC, "use_rms_norm": True}, "use_rms_norm: expected one of False"),
    ("nomic_bert", {**NOMIC, "causal": True}, "causal: expected one of False"),
    ("nomic_bert", {**NOMIC, "num_heads_kv": 1}, "num_heads_kv 1 is not supported"),
    ("nomic_bert", {**NOMIC, "rotary_head_dim": True}, "rotary_head_dim: expected one of False"),
    ("nomic_bert", {**NOMIC, "rotary_emb_base": None}, "missing field 'rotary_emb_base'"),
    ("eurobert", {"num_attention_heads": 12, "num_key_value_heads": 5}, "not a multiple of num_key_value_heads 5"),
    ("eurobert", {"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer"),
    ("eurobert", {"num_hidden_layers": 10**12}, "num_hidden_layers: expected at most 10000, got 1000000000000"),
    ("modernbert", {"num_hidden_layers": 10**12}, "num_hidden_layers: expected at most 10000, got 1000000000000"),
    ("eurobert", {"head_dim": 7}, "head_dim 7"),
    ("eurobert", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_scaling.rope_type: expected one of"),
    ("gte", {"model_type": "new", "rope_scaling": {"type": "linear", "factor": 2.0}}, "supported: type 'ntk'"),
    ("gte", {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}, "rope_scaling: unknown field 'mixed_b'"),
    ("gte", {"rope_scaling": {"type": "ntk", "factor": -2.0}}, "factor -2.0 is not a positive number"),
    ("gte", {"layer_norm_type": "rms_norm"}, "layer_norm_type: expected one of 'layer_norm'"),
    ("gte", {"position_embedding_type": "absolute"}, "position_embedding_type: expected one of 'rope'"),
    ("gte", {"logn_attention_scale": True}, "logn_attention_scale: expected one of False"),
    ("gte", {"head_dim": 7}, "heads of width 7"),
    ("jina_embeddings_v3", {**JINA, "position_embedding_type": "absolute"}, "position_embedding_type: expected one of"),
    ("jina_embeddings_v3", {**JINA, "emb_pooler": "mean"}, "emb_pooler: expected one of None"),
    ("jina_embeddings_v3", {**JINA, "rotary_emb_base": None}, "missing field 'rotary_emb_base'"),
    ("jina_embeddings_v3", {**JINA, "lora_adaptations": ["a", "a"]}, "a task is listed twice: a, a"),
    ("jina_embeddings_v3", {**JINA, "lora_rank": 0}, "lora_rank: expected a positive integer"),
]


@pytest.mark.parametrize(("family", "config"), [("nomic_bert", NOMIC), ("jina_embeddings_v3", JINA)])
def test_the_rest_is_read(family: str, config: dict[str, Any]) -> None:
    assert FAMILIES[family].read_config({"model_type": family, **config})


@pytest.mark.parametrize(("family", "config", "message"), REFUSED, ids=[f"{row[0]}: {row[2]}" for row in REFUSED])
def test_refused_by_name(family: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        FAMILIES[family].read_config({"model_type": family, **config})


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "xlm-roberta"}, "xlm-roberta"),
        ({"model_type": "xlm-roberta", "auto_map": {"AutoModel": "someone/else--modeling.Model"}}, "xlm-roberta"),
        (JINA, "jina_embeddings_v3"),
        ({**JINA, "auto_map": {}}, "jina_embeddings_v3"),
        ({**JINA, "position_embedding_type": "absolute"}, "jina_embeddings_v3"),
        ({"model_type": "new"}, "gte"),
        ({"model_type": "bert"}, "bert"),
    ],
)
def test_families_of_repos_that_call_themselves_otherwise(config: dict[str, Any], family: str) -> None:
    assert family_name(config, config["model_type"]) == family


def test_mixtures_of_experts() -> None:
    config = {"model_type": "nomic_bert", **NOMIC, "num_experts": 8, "moe_every_n_layers": 2, "moe_top_k": 2}
    with pytest.raises(UnsupportedModelError, match="num_experts 8: a mixture of experts cannot be exported"):
        check_supported(config, FAMILIES)

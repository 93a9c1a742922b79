"""Variants of decoders, T5 and DeBERTa that their graphs do not have: refused by the key."""

from typing import Any

import pytest

from embedrt import UnsupportedModelError
from embedrt_export.families import FAMILIES

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
OWN_CODE = {"auto_map": {"AutoModel": "modeling_own.OwnModel"}}
WINDOWS = ["sliding_attention", "full_attention"]

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("qwen2", OWN_CODE, r"auto_map: AutoModel 'modeling_own\.OwnModel' is code of the repo, .*\"is_causal\": false"),
    ("mistral", {**OWN_CODE, "is_causal": True}, "auto_map"),
    ("gemma3_text", OWN_CODE, "auto_map"),
    ("llama", {"is_causal": None}, "is_causal: expected true or false, got null"),
    ("llama", {"is_causal": "no"}, "is_causal"),
    ("llama", {"num_attention_heads": 6, "num_key_value_heads": 4}, "6 is not a multiple of num_key_value_heads 4"),
    ("llama", {"head_dim": 7}, "head_dim 7: rotary positions rotate pairs"),
    ("llama", {"hidden_size": 0}, r"config\.json\.hidden_size: expected a positive integer, got 0"),
    ("llama", {"hidden_size": 2, "head_dim": None}, r"hidden_size: expected at least one for each of 4 heads, got 2"),
    ("eurobert", {"hidden_size": 2}, r"config\.json\.hidden_size: expected at least one for each of 4 heads, got 2"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
    ("llama", {"num_hidden_layers": 10**12}, "num_hidden_layers: expected at most 10000, got 1000000000000"),
    ("gemma3_text", {"num_hidden_layers": 10**12}, "num_hidden_layers: expected at most 10000, got 1000000000000"),
    ("mistral", {"num_attention_heads": 0}, "num_attention_heads"),
    ("qwen3", {"head_dim": -8}, "head_dim"),
    ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
    ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0\.5: this architecture rotates whole heads"),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, r"rope_scaling.*rope_type.*'longrope'"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, r"rope_scaling: rope_type 'linear' needs factor"),
    ("llama", {"rope_parameters": {"rope_type": "yarn"}}, r"rope_parameters: rope_type 'yarn' needs factor"),
    ("llama", {"rope_scaling": {"type": "llama3", "factor": 8.0}}, "needs low_freq_factor"),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 2]}}, "mrope"),
    ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "'linear_attention' is not supported"),
    ("qwen3", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers 2"),
    ("qwen3", {"layer_types": WINDOWS}, "'sliding_attention', but there is no sliding_window"),
    ("qwen2", {"layer_types": WINDOWS, "use_sliding_window": True, "sliding_window": None}, "no sliding_window"),
    ("mistral", {"sliding_window": 0}, "sliding_window: expected a positive integer, got 0"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping 50\.0 is not supported"),
    ("gemma3_text", {"sliding_window": None}, "sliding_window is null"),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
    ("gemma3_text", {"rope_parameters": {"chunked_attention": {}}}, "chunked_attention: expected one object for each"),
    (
        "gemma3_text",
        {"rope_parameters": {"sliding_attention": {**YARN, "truncate": False}}},
        r"rope_parameters\.sliding_attention: truncate false",
    ),
    ("t5", {"is_decoder": True}, "is_decoder"),
    ("t5", {"num_heads": 0}, r"config\.json\.num_heads: expected a positive integer"),
    ("mt5", {"relative_attention_num_buckets": 2}, "relative_attention_num_buckets 2"),
    ("t5", {"relative_attention_max_distance": 8}, "relative_attention_max_distance 8"),
    ("deberta-v2", {"pos_att_type": "c2p|p2p"}, "pos_att_type 'p2p' is not supported; supported: c2p, p2c"),
    ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size 4 is even"),
    ("deberta-v2", {"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
    ("deberta-v2", {"position_buckets": 15}, "position_buckets 15 for 512 relative positions"),
    ("deberta-v2", {"position_buckets": 64, "max_relative_positions": 33}, "position_buckets 64 for 33"),
]


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED)
def test_refused_by_the_key(family: str, changes: dict[str, Any], message: str) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    with pytest.raises(UnsupportedModelError, match=message):
        FAMILIES[family].read_config({"model_type": family, **sizes, **changes})


def test_own_code_that_only_sees_in_both_directions() -> None:
    config = FAMILIES["qwen2"].read_config({"model_type": "qwen2", **OWN_CODE, "is_causal": False})
    assert not config.is_causal


def test_dynamic_positions_reach_as_far_as_the_training() -> None:
    scaling = {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 77}
    for family in ("llama", "qwen3"):
        made = FAMILIES[family]
        assert made.positions(made.read_config({"model_type": family, **scaling})) == 77
        assert made.positions(made.read_config({"model_type": family})) is None
    gemma = FAMILIES["gemma3_text"]
    assert gemma.positions(gemma.read_config({"model_type": "gemma3_text", **scaling})) == 77

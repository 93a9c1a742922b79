"""Encoders with rotary positions: configs that would change the numbers are refused by name."""

from typing import Any

import pytest

from embedrt.errors import UnsupportedModelError
from embedrt_export.families import FAMILIES

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
]


@pytest.mark.parametrize(("family", "config", "message"), REFUSED, ids=[f"{row[0]}: {row[2]}" for row in REFUSED])
def test_refused_by_name(family: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        FAMILIES[family].read_config({"model_type": family, **config})

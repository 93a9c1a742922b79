"""The angles of rotary positions against transformers: their last bits grow with the position."""

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from embedrt_export.layers.rotary import frequencies, read_rope

VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn, its own range": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 16,
        "truncate": False,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
    },
    "yarn, its own scale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.3, "factor": 2.0},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
@pytest.mark.parametrize("size", [16, 64, 128])
def test_frequencies(name: str, theta: float, size: int) -> None:
    parameters = {"rope_theta": theta, **VARIANTS[name]}
    config = LlamaConfig(
        hidden_size=4 * size,
        num_attention_heads=4,
        head_dim=size,
        max_position_embeddings=131072,
        rope_parameters=dict(parameters),
    )
    expected, expected_scale = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    found, scale = frequencies(read_rope(parameters, "rope_parameters"), size)
    assert found.dtype == np.float32
    assert scale == expected_scale
    last_bits = np.abs(found - expected.numpy()) / np.maximum(np.spacing(found), np.finfo(np.float32).tiny)
    assert last_bits.max() <= 4
    assert (last_bits > 0).mean() <= 0.15

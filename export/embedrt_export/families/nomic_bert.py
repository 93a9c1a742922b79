"""NomicBERT: as transformers saves it, and as the hub repos of nomic-ai have it, made for their own code."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks import rotary_encoder
from embedrt_export.blocks.rotary_encoder import RotaryEncoder, check, from_keys, head_size
from embedrt_export.families.family import Family
from embedrt_export.layers.rotary import Rope, config_rope
from embedrt_export.source.configs import pick

_PREFIXES = ("nomic_bert.", "bert.")
_RENAMES = (
    (r"emb_ln\.(.*)", r"embeddings.LayerNorm.\1"),
    (r"encoder\.layers\.(\d+)\.attn\.Wqkv\.(.*)", r"layers.\1.self_attn.qkv_proj.\2"),
    (r"encoder\.layers\.(\d+)\.attn\.out_proj\.(.*)", r"layers.\1.self_attn.o_proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc11\.(.*)", r"layers.\1.mlp.up_proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc12\.(.*)", r"layers.\1.mlp.gate_proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(.*)", r"layers.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(.*)", r"layers.\1.mlp.down_proj.\2"),
    (r"encoder\.layers\.(\d+)\.norm1\.(.*)", r"layers.\1.post_attention_layernorm.\2"),
    (r"encoder\.layers\.(\d+)\.norm2\.(.*)", r"layers.\1.post_mlp_layernorm.\2"),
)
_ROUNDED = 256  # the hub code makes a gated feed-forward as wide as the next multiple of this
_GATES = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}


_DEFAULTS = {
    "vocab_size": 30528,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "silu",
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class HubKeys:
    """Keys of the hub repos, with the defaults of their code; a key with no default there, or with two, is required."""

    n_embd: int
    n_head: int
    n_layer: int
    vocab_size: int
    activation_function: Literal["swiglu", "geglu", "glu", "gelu"]
    rotary_emb_base: float
    rotary_emb_fraction: float
    n_inner: int | None = None
    n_positions: int = 1024
    num_heads_kv: int | None = None
    layer_norm_epsilon: float = 1e-5
    type_vocab_size: int = 2
    pad_vocab_size_multiple: int = 1
    qkv_proj_bias: bool = True
    mlp_fc1_bias: bool = True
    mlp_fc2_bias: bool = True
    rotary_scaling_factor: float | None = None
    max_trained_positions: int = 2048
    rotary_emb_interleaved: Literal[False] = False
    rotary_emb_scale_base: Literal[None] = None
    rotary_head_dim: Literal[False] = False
    prenorm: Literal[False] = False
    parallel_block: Literal[False] = False
    use_rms_norm: Literal[False] = False
    causal: Literal[False] = False


def read_config(config: Mapping[str, Any]) -> RotaryEncoder:
    """Read config.json of either kind; unsupported variants are an error."""
    return check(_hub(config) if is_hub(config) else _native(config))


def is_hub(config: Mapping[str, Any]) -> bool:
    """True if a config is for the code of the hub repos."""
    return "n_embd" in config


def _native(config: Mapping[str, Any]) -> RotaryEncoder:
    model = from_keys(config, _DEFAULTS, config_rope(config, theta=1000.0))
    return dataclasses.replace(model, attention_bias=False, output_bias=False)


def _hub(config: Mapping[str, Any]) -> RotaryEncoder:
    keys = pick(HubKeys, config)
    if keys.rotary_emb_fraction != 1.0:
        raise UnsupportedModelError(
            f"config.json: rotary_emb_fraction {keys.rotary_emb_fraction} is not supported; supported: 1.0"
        )
    if keys.num_heads_kv not in (None, keys.n_head):
        raise UnsupportedModelError(
            f"config.json: num_heads_kv {keys.num_heads_kv} is not supported; supported: n_head, {keys.n_head}"
        )
    gated = keys.activation_function in _GATES
    multiple = max(keys.pad_vocab_size_multiple, 1)
    width = keys.n_inner or (8 * keys.n_embd // 3 if gated else 4 * keys.n_embd)
    return RotaryEncoder(
        vocab_size=-(-keys.vocab_size // multiple) * multiple,
        hidden_size=keys.n_embd,
        num_hidden_layers=keys.n_layer,
        num_attention_heads=keys.n_head,
        head_dim=head_size(keys.n_embd, keys.n_head),
        intermediate_size=-(-width // _ROUNDED) * _ROUNDED if gated else width,
        hidden_act=_GATES.get(keys.activation_function, keys.activation_function),
        type_vocab_size=max(keys.type_vocab_size, 0),
        layer_norm_eps=keys.layer_norm_epsilon,
        rope=Rope(rope_theta=keys.rotary_emb_base),
        max_position_embeddings=keys.n_positions if keys.n_positions > 0 else 2048,
        # Beyond these, the scaling changes the angles with the length of the longest text of a batch.
        positions=keys.max_trained_positions if keys.rotary_scaling_factor else None,
        gated=gated,
        attention_bias=keys.qkv_proj_bias,
        input_bias=keys.mlp_fc1_bias,
        output_bias=keys.mlp_fc2_bias,
    )


FAMILY = Family(
    read_config=read_config,
    prefixes=_PREFIXES,
    backbone=rotary_encoder.BACKBONE,
    positions=rotary_encoder.positions,
    build=rotary_encoder.build,
    renames=_RENAMES,
    ignored=rotary_encoder.IGNORED,
    needs_own_code=is_hub,
    tasks=lambda config: config.tasks,
)

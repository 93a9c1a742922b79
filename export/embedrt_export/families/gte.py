"""GTE: as transformers saves it, and as hub repos have it under the model types "new" and "gte", for their own code."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks import rotary_encoder
from embedrt_export.blocks.rotary_encoder import RotaryEncoder, check, from_keys
from embedrt_export.families.family import Family
from embedrt_export.layers.rotary import Rope, config_rope
from embedrt_export.source.configs import pick, strict

_PREFIXES = ("gte.", "new.")
_RENAMES = (
    (r"encoder\.layer\.(\d+)\.attention\.(qkv_proj|[qkvo]_proj)\.(.*)", r"layers.\1.self_attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attn_ln\.(.*)", r"layers.\1.post_attention_layernorm.\2"),
    (r"encoder\.layer\.(\d+)\.mlp_ln\.(.*)", r"layers.\1.post_mlp_layernorm.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.(.*)", r"layers.\1.mlp.\2"),
)


@dataclass(frozen=True)
class _Variant:
    """Keys of which the graph has one value."""

    layer_norm_type: Literal["layer_norm"] = "layer_norm"
    position_embedding_type: Literal["rope"] = "rope"
    logn_attention_scale: Literal[False] = False


_DEFAULTS = {
    "vocab_size": 250048,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 8192,
}
_HUB_DEFAULTS = {
    **_DEFAULTS,
    "vocab_size": 30528,
    "max_position_embeddings": 2048,
}  # where the code for "new" has others


@dataclass(frozen=True)
class _Ntk:
    """`rope_scaling` of hub code."""

    factor: float
    type: Literal["ntk"] = "ntk"


def read_config(config: Mapping[str, Any]) -> RotaryEncoder:
    """Read config.json of either kind; unsupported variants are an error."""
    is_hub = config.get("model_type") == "new"
    pick(_Variant, config)
    model = from_keys(config, _HUB_DEFAULTS if is_hub else _DEFAULTS, Rope())
    return check(dataclasses.replace(model, rope=_rope(config, model.head_dim, is_hub=is_hub)))


def needs_own_code(config: Mapping[str, Any]) -> bool:
    """True if only the code of hub repos runs a model of this config."""
    return config.get("model_type") == "new" or _is_ntk(config)


def _is_ntk(config: Mapping[str, Any]) -> bool:
    scaling = config.get("rope_scaling")
    return isinstance(scaling, Mapping) and scaling.get("type") == "ntk"


def _rope(config: Mapping[str, Any], width: int, *, is_hub: bool) -> Rope:
    """Rotary positions; "ntk" (https://kexue.fm/archives/9706, formula 6) is a larger base with linear scaling.

    With a factor k and heads of width d: theta becomes k theta, and every angle is divided by k^(2 / d).
    """
    theta = 10000.0 if is_hub else 160000.0
    scaling = config.get("rope_scaling")
    if _is_ntk(config):
        given = {key: value for key, value in config["rope_scaling"].items() if value is not None}
        factor = strict(_Ntk, given, "config.json.rope_scaling").factor
        if factor <= 0:
            raise UnsupportedModelError(f"config.json.rope_scaling: factor {factor} is not a positive number")
        plain = config_rope({key: value for key, value in config.items() if key != "rope_scaling"}, theta=theta)
        return Rope(rope_theta=plain.rope_theta * factor, rope_type="linear", factor=factor ** (2 / width))
    if is_hub and scaling is not None:
        raise UnsupportedModelError(f"config.json.rope_scaling: {scaling} is not supported; supported: type 'ntk'")
    return config_rope(config, theta=theta)


FAMILY = Family(
    read_config=read_config,
    prefixes=_PREFIXES,
    backbone=rotary_encoder.BACKBONE,
    positions=rotary_encoder.positions,
    build=rotary_encoder.build,
    renames=_RENAMES,
    ignored=rotary_encoder.IGNORED,
    needs_own_code=needs_own_code,
    tasks=lambda config: config.tasks,
    aliases=("new",),
)

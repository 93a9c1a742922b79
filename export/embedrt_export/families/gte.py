"""GTE: as transformers saves it, and as hub repos have it under the model types "new" and "gte", for their own code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.configs import pick, strict
from embedrt_export.rope import Rope, config_rope
from embedrt_export.rotary_encoder import RotaryEncoder, check, head_size

PREFIXES = ("gte.", "new.")
RENAMES = (
    (r"encoder\.layer\.(\d+)\.attention\.(qkv_proj|[qkvo]_proj)\.(.*)", r"layers.\1.self_attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attn_ln\.(.*)", r"layers.\1.post_attention_layernorm.\2"),
    (r"encoder\.layer\.(\d+)\.mlp_ln\.(.*)", r"layers.\1.post_mlp_layernorm.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.(.*)", r"layers.\1.mlp.\2"),
)


@dataclass(frozen=True)
class Keys:
    """The keys of config.json that change the numbers, with the defaults of transformers."""

    vocab_size: int = 250048
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int | None = None
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 8192
    layer_norm_type: Literal["layer_norm"] = "layer_norm"
    position_embedding_type: Literal["rope"] = "rope"
    logn_attention_scale: Literal[False] = False


_HUB_DEFAULTS = {"vocab_size": 30528, "max_position_embeddings": 2048}  # where the code for "new" has others


@dataclass(frozen=True)
class _Ntk:
    """`rope_scaling` of hub code."""

    factor: float
    type: Literal["ntk"] = "ntk"


def read_config(config: Mapping[str, Any]) -> RotaryEncoder:
    """Reads config.json of either kind, refusing variants that the graph does not have."""
    is_hub = config.get("model_type") == "new"
    keys = pick(Keys, {**(_HUB_DEFAULTS if is_hub else {}), **config})
    width = head_size(keys.hidden_size, keys.num_attention_heads, keys.head_dim)
    return check(
        RotaryEncoder(
            vocab_size=keys.vocab_size,
            hidden_size=keys.hidden_size,
            num_hidden_layers=keys.num_hidden_layers,
            num_attention_heads=keys.num_attention_heads,
            head_dim=width,
            intermediate_size=keys.intermediate_size,
            hidden_act=keys.hidden_act,
            type_vocab_size=keys.type_vocab_size,
            layer_norm_eps=keys.layer_norm_eps,
            rope=_rope(config, width, is_hub=is_hub),
            max_position_embeddings=keys.max_position_embeddings,
        )
    )


def needs_own_code(config: Mapping[str, Any]) -> bool:
    """Whether only the code of hub repos runs a model of this config."""
    return config.get("model_type") == "new" or _is_ntk(config)


def _is_ntk(config: Mapping[str, Any]) -> bool:
    scaling = config.get("rope_scaling")
    return isinstance(scaling, Mapping) and scaling.get("type") == "ntk"


def _rope(config: Mapping[str, Any], width: int, *, is_hub: bool) -> Rope:
    """Rotary positions; "ntk" (https://kexue.fm/archives/9706, formula 6) is a larger base with a linear stretch.

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

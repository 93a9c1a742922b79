"""ModernBERT (arXiv:2412.13663): pre-norm layers with gated feed-forward; most have an attention window.

Rotary positions, with a base of their own for the layers with a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import AttentionBias, AttentionWindow, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.linear import Linear
from embedrt_export.layers.rotary import Rope, Rotation, read_whole_rope, rotate, rotation
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Ropes:
    """`rope_parameters`: the rotary positions of each type of layer."""

    full_attention: dict[str, Any] | None = None
    sliding_attention: dict[str, Any] | None = None


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers.

    `layer_types` and `rope_parameters` go before the older `global_attn_every_n_layers` and `..._rope_theta`.
    """

    vocab_size: int = 50368
    hidden_size: int = 768
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    intermediate_size: int = 1152
    hidden_activation: str = "gelu"
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    local_attention: int = 128
    max_position_embeddings: int = 8192
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None
    global_attn_every_n_layers: int = 3
    rope_parameters: Ropes = Ropes()
    rope_scaling: Literal[None] = None
    global_rope_theta: float = 160000.0
    local_rope_theta: float = 10000.0


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    for key in ("global_rope_theta", "local_rope_theta"):
        if config.get(key, 0) is None:
            raise UnsupportedModelError(
                f"config.json: {key} is null, which not every version of transformers reads in the same way; "
                "write the number there that the model was trained with"
            )
    if config.get("rope_scaling") is not None:
        raise UnsupportedModelError("config.json: rope_scaling is not supported; write rope_parameters instead")
    read = pick(Config, config)
    check_sizes(read)
    if (entries := len(_layer_types(read))) != read.num_hidden_layers:
        raise UnsupportedModelError(
            f"config.json: layer_types has {entries} entries, but num_hidden_layers is {read.num_hidden_layers}"
        )
    for kind in (_GLOBAL, _LOCAL):
        _rope(read, kind)
    return read


def positions(config: Config) -> None:
    """Rotary positions have no limit."""


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]`, the last with the final norm."""
    size, window = config.hidden_size // config.num_attention_heads, config.local_attention // 2
    types = _layer_types(config)
    bias = {_GLOBAL: attention_bias(scope), _LOCAL: attention_bias(scope, AttentionWindow(window, window))}
    rotations = {kind: rotation(scope, _rope(config, kind), size) for kind in sorted(set(types))}
    states = [_embeddings(scope.at("embeddings"), config)]
    for i, kind in enumerate(types):
        # The first layer reads the embeddings, which are normalized already.
        layer, x = scope.at(f"layers.{i}"), states[-1]
        normed = _norm(layer, x, config, "attn_norm") if i else x
        x = scope.op("Add", x, _attention(layer.at("attn"), normed, bias[kind], rotations[kind], config))
        normed = _norm(layer, x, config, "mlp_norm")
        states.append(scope.op("Add", x, _feed_forward(layer.at("mlp"), normed, config)))
    states[-1] = _norm(scope, states[-1], config, "final_norm")
    return states


def _layer_types(config: Config) -> tuple[str, ...]:
    every = config.global_attn_every_n_layers
    return config.layer_types or tuple(_LOCAL if i % every else _GLOBAL for i in range(config.num_hidden_layers))


def _rope(config: Config, kind: str) -> Rope:
    theta = config.global_rope_theta if kind == _GLOBAL else config.local_rope_theta
    return read_whole_rope(getattr(config.rope_parameters, kind), f"config.json.rope_parameters.{kind}", theta=theta)


def _norm(scope: Scope, x: str, config: Config, name: str) -> str:
    return scope.layer_norm(x, name, config.hidden_size, config.norm_eps, bias=config.norm_bias)


def _embeddings(scope: Scope, config: Config) -> str:
    name = "tok_embeddings.weight"
    table = scope.add(name, scope.read(name, config.vocab_size, config.hidden_size))
    x = scope.flatten(scope.op("Gather", table, scope.inputs.input_ids), config.hidden_size)
    return _norm(scope, x, config, "norm")


def _feed_forward(scope: Scope, x: str, config: Config) -> str:
    hidden, inner = config.hidden_size, config.intermediate_size
    layers = scope.read_linear("Wi", hidden, 2 * inner, bias=config.mlp_bias).unpack(2)
    content, gate = (scope.project(x, name, layer) for name, layer in zip(("content", "gate"), layers, strict=True))
    gated = scope.op("Mul", scope.activation(config.hidden_activation, content), gate)
    return scope.linear(gated, "Wo", inner, hidden, bias=config.mlp_bias)


def _attention(scope: Scope, x: str, bias: AttentionBias, by: Rotation, config: Config) -> str:
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    offset = scope.read("Wqkv.bias", 3 * hidden) if config.attention_bias else None
    layers = Linear(scope.read("Wqkv.weight", 3 * hidden, hidden), offset).unpack(3)
    query, key, value = (
        split_heads(scope, scope.project(x, name, layer.scaled(scale)), heads, size)
        for name, layer, scale in zip(("query", "key", "value"), layers, (size**-0.5, 1.0, 1.0), strict=True)
    )
    query, key = (rotate(scope.graph, part, by, size) for part in (query, key))
    attended = attend(scope, query, key, value, bias, Heads(heads, size))
    return scope.linear(attended, "Wo", hidden, hidden, bias=config.attention_bias)


FAMILY = Family(
    read_config=read_config,
    prefixes=("model.",),
    backbone=("embeddings.", "layers.", "final_norm."),
    positions=positions,
    build=build,
)

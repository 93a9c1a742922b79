"""ModernBERT (arXiv:2412.13663): pre-norm layers with gated feed-forward; most see a window, some see everything.

Rotary positions, with a base of their own for the layers with a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import check_sizes
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attend, attention_bias, split_heads
from embedrt_export.layers.linear import TextInputs, activation, flatten, layer_norm, linear, project, unpack
from embedrt_export.layers.rotary import Rope, Rotation, read_whole_rope, rotate, rotation
from embedrt_export.source.configs import check_layers, pick
from embedrt_export.source.weights import Weights

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Ropes:
    """`rope_parameters`: how the layers of each type turn."""

    full_attention: dict[str, Any] | None = None
    sliding_attention: dict[str, Any] | None = None


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers.

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
    """Reads config.json, refusing variants that the graph does not have."""
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
    check_layers(read.num_hidden_layers)
    if (entries := len(_layer_types(read))) != read.num_hidden_layers:
        raise UnsupportedModelError(
            f"config.json: layer_types has {entries} entries, but num_hidden_layers is {read.num_hidden_layers}"
        )
    for kind in (_GLOBAL, _LOCAL):
        _rope(read, kind)
    return read


def positions(config: Config) -> None:
    """Rotary positions have no limit."""


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]`, the last with the final norm."""
    size, window = config.hidden_size // config.num_attention_heads, config.local_attention // 2
    types = _layer_types(config)
    bias = {
        _GLOBAL: attention_bias(graph, inputs),
        _LOCAL: attention_bias(graph, inputs, before=window, after=window),
    }
    turned = {kind: rotation(graph, inputs, _rope(config, kind), size) for kind in sorted(set(types))}
    states = [_embeddings(graph, config, weights, inputs)]
    for i, kind in enumerate(types):
        states.append(_layer(graph, config, weights, states[-1], bias[kind], turned[kind], inputs, i))
    states[-1] = _norm(graph, config, weights, states[-1], "final_norm")
    return states


def _layer_types(config: Config) -> tuple[str, ...]:
    every = config.global_attn_every_n_layers
    return config.layer_types or tuple(_LOCAL if i % every else _GLOBAL for i in range(config.num_hidden_layers))


def _rope(config: Config, kind: str) -> Rope:
    theta = config.global_rope_theta if kind == _GLOBAL else config.local_rope_theta
    return read_whole_rope(getattr(config.rope_parameters, kind), f"config.json.rope_parameters.{kind}", theta=theta)


def _norm(graph: GraphBuilder, config: Config, weights: Weights, x: str, name: str) -> str:
    return layer_norm(graph, weights, x, name, config.hidden_size, config.norm_eps, bias=config.norm_bias)


def _embeddings(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> str:
    name = "embeddings.tok_embeddings.weight"
    table = graph.weight(name, weights(name, config.vocab_size, config.hidden_size))
    x = flatten(graph, graph.op("Gather", table, inputs.input_ids), config.hidden_size)
    return _norm(graph, config, weights, x, "embeddings.norm")


def _layer(
    graph: GraphBuilder,
    config: Config,
    weights: Weights,
    x: str,
    bias: str,
    turned: Rotation,
    inputs: TextInputs,
    number: int,
) -> str:
    name, hidden, inner = f"layers.{number}", config.hidden_size, config.intermediate_size
    # The first layer reads the embeddings, which are normalized already.
    normed = _norm(graph, config, weights, x, f"{name}.attn_norm") if number else x
    attended = _attention(graph, config, weights, normed, bias, turned, inputs, f"{name}.attn")
    x = graph.op("Add", x, attended)
    normed = _norm(graph, config, weights, x, f"{name}.mlp_norm")
    both = linear(graph, weights, normed, f"{name}.mlp.Wi", hidden, 2 * inner, bias=config.mlp_bias)
    content, gate = graph.ops("Split", 2, both, graph.ints(inner, inner), axis=-1)
    gated = graph.op("Mul", activation(graph, config.hidden_activation, content), gate)
    return graph.op("Add", x, linear(graph, weights, gated, f"{name}.mlp.Wo", inner, hidden, bias=config.mlp_bias))


def _attention(
    graph: GraphBuilder,
    config: Config,
    weights: Weights,
    x: str,
    bias: str,
    turned: Rotation,
    inputs: TextInputs,
    name: str,
) -> str:
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    offset = weights(f"{name}.Wqkv.bias", 3 * hidden) if config.attention_bias else None
    layers = unpack(weights(f"{name}.Wqkv.weight", 3 * hidden, hidden), offset, 3)
    query, key, value = (
        split_heads(graph, project(graph, x, f"{name}.{part}", *layer, scale=scale), inputs, heads, size)
        for part, layer, scale in zip(("query", "key", "value"), layers, (size**-0.5, 1.0, 1.0), strict=True)
    )
    query, key = (rotate(graph, part, turned, size) for part in (query, key))
    attended = attend(graph, query, key, value, bias, heads=heads, size=size)
    return linear(graph, weights, attended, f"{name}.Wo", hidden, hidden, bias=config.attention_bias)

"""The encoder of NomicBERT, GTE and Jina Embeddings v3: BERT's post-norm layers, with rotary positions.

Which of its variants a model has is data: a `RotaryEncoder`. Names of tensors are those of transformers; where a repo
stores several linear layers as one, the family renames that one to `qkv_proj` or `up_gate_proj`, and the last layer
of a feed-forward is `down_proj`, gated or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attend, attention_bias, split_heads
from embedrt_export.layers.linear import Linear, TextInputs, activation, flatten, layer_norm, project, unpack
from embedrt_export.layers.rotary import Rope, Rotation, rotate, rotation
from embedrt_export.source.configs import pick
from embedrt_export.source.weights import Weights

BACKBONE = ("embeddings.", "emb_ln.", "layers.", "encoder.")
# Angles, which some versions store; and adapters for other tasks than the one that was chosen.
IGNORED = (r".*rotary_emb\.inv_freq", r".*\.lora_[AB]")


@dataclass(frozen=True)
class RotaryEncoder:
    """One model.

    Attributes:
        vocab_size: Rows of the embeddings.
        hidden_size: Width of the hidden states.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        head_dim: Width of one head.
        intermediate_size: Width of the feed-forward.
        hidden_act: Its activation.
        type_vocab_size: Rows of the token types; 0 is none.
        layer_norm_eps: Added to the variance in every norm.
        rope: The rotary positions.
        max_position_embeddings: The limit on tokens where nothing else sets one.
        positions: How many tokens the positions reach, or None without limit.
        gated: Whether the feed-forward has a gate.
        attention_bias: Whether the linear layers of the attention have a bias.
        input_bias: Whether those into the feed-forward have one.
        output_bias: Whether the one out of it has.
        tasks: The tasks for which the model has adapters.
        task: The one that was chosen; None leaves the adapters out.
        lora_rank: The rank of the adapters.
        lora_alpha: What they are multiplied with, times the rank.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    intermediate_size: int
    hidden_act: str
    type_vocab_size: int
    layer_norm_eps: float
    rope: Rope
    max_position_embeddings: int
    positions: int | None = None
    gated: bool = True
    attention_bias: bool = True
    input_bias: bool = False
    output_bias: bool = True
    tasks: tuple[str, ...] = ()
    task: str | None = None
    lora_rank: int = 1
    lora_alpha: float = 1.0


@dataclass(frozen=True)
class Keys:
    """The keys of config.json by transformers' names; a family says which defaults it has."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    type_vocab_size: int
    layer_norm_eps: float
    max_position_embeddings: int
    head_dim: int | None = None


def from_keys(config: Mapping[str, Any], defaults: Mapping[str, Any], rope: Rope) -> RotaryEncoder:
    """The model of a config with transformers' names for its keys.

    Args:
        config: The parsed config.json.
        defaults: The values of keys that it lacks.
        rope: The rotary positions.

    Raises:
        UnsupportedModelError: Names the key, what it holds and what is known.
    """
    keys = pick(Keys, {**defaults, **{key: value for key, value in config.items() if value is not None}})
    return RotaryEncoder(
        vocab_size=keys.vocab_size,
        hidden_size=keys.hidden_size,
        num_hidden_layers=keys.num_hidden_layers,
        num_attention_heads=keys.num_attention_heads,
        head_dim=head_size(keys.hidden_size, keys.num_attention_heads, keys.head_dim),
        intermediate_size=keys.intermediate_size,
        hidden_act=keys.hidden_act,
        type_vocab_size=keys.type_vocab_size,
        layer_norm_eps=keys.layer_norm_eps,
        rope=rope,
        max_position_embeddings=keys.max_position_embeddings,
    )


def check(config: RotaryEncoder) -> RotaryEncoder:
    """Returns the model if its sizes go together.

    Raises:
        UnsupportedModelError: Names the key that does not fit.
    """
    sizes = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "lora_rank",
    )
    for name in sizes:
        if (value := getattr(config, name)) < 1:
            raise UnsupportedModelError(f"config.json: {name}: expected a positive integer, got {value}")
    if config.type_vocab_size < 0:
        raise UnsupportedModelError(f"config.json: type_vocab_size: expected 0 or more, got {config.type_vocab_size}")
    if config.head_dim < 2 or config.head_dim % 2:
        raise UnsupportedModelError(
            f"config.json: heads of width {config.head_dim}: rotary positions turn pairs, so an even number is needed"
        )
    if len(set(config.tasks)) != len(config.tasks):
        raise UnsupportedModelError(f"config.json: a task is listed twice: {', '.join(config.tasks)}")
    return config


def head_size(hidden_size: int, heads: int, head_dim: int | None = None) -> int:
    """The width of one head.

    Raises:
        UnsupportedModelError: The config has no such number.
    """
    if head_dim is None and (heads < 1 or hidden_size % heads):
        raise UnsupportedModelError(
            f"config.json: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}"
        )
    return hidden_size // heads if head_dim is None else head_dim


def positions(config: RotaryEncoder) -> int | None:
    """How many tokens the rotary positions reach."""
    return config.positions


def build(graph: GraphBuilder, config: RotaryEncoder, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = attention_bias(graph, inputs)
    turned = rotation(graph, inputs, config.rope, config.head_dim)
    states = [_embeddings(graph, config, weights, inputs)]
    for i in range(config.num_hidden_layers):
        states.append(_layer(graph, config, weights, states[-1], bias, turned, inputs, f"layers.{i}"))
    return states


def _embeddings(graph: GraphBuilder, config: RotaryEncoder, weights: Weights, inputs: TextInputs) -> str:
    hidden, name = config.hidden_size, "embeddings.word_embeddings"
    words = graph.weight(name, _weight(config, weights, name, config.vocab_size, hidden, transposed=True))
    x = graph.op("Gather", words, inputs.input_ids)
    if config.type_vocab_size:
        name = "embeddings.token_type_embeddings"
        types = _weight(config, weights, name, config.type_vocab_size, hidden, transposed=True)
        if inputs.token_type_ids is None:
            added = graph.weight(f"{name}.0", types[0])
        else:
            added = graph.op("Gather", graph.weight(name, types), inputs.token_type_ids)
        x = graph.op("Add", x, added)
    return layer_norm(graph, weights, flatten(graph, x, hidden), "embeddings.LayerNorm", hidden, config.layer_norm_eps)


def _layer(
    graph: GraphBuilder,
    config: RotaryEncoder,
    weights: Weights,
    x: str,
    bias: str,
    turned: Rotation,
    inputs: TextInputs,
    name: str,
) -> str:
    hidden, epsilon = config.hidden_size, config.layer_norm_eps
    attended = _attention(graph, config, weights, x, bias, turned, inputs, f"{name}.self_attn")
    x = layer_norm(graph, weights, graph.op("Add", attended, x), f"{name}.post_attention_layernorm", hidden, epsilon)
    inside = _feed_forward(graph, config, weights, x, f"{name}.mlp")
    return layer_norm(graph, weights, graph.op("Add", inside, x), f"{name}.post_mlp_layernorm", hidden, epsilon)


def _attention(
    graph: GraphBuilder,
    config: RotaryEncoder,
    weights: Weights,
    x: str,
    bias: str,
    turned: Rotation,
    inputs: TextInputs,
    name: str,
) -> str:
    hidden, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
    names = ("q_proj", "k_proj", "v_proj")
    layers = _linears(config, weights, name, "qkv_proj", names, heads * size, hidden, bias=config.attention_bias)
    query, key, value = (
        split_heads(graph, project(graph, x, f"{name}.{part}", *layer, scale=scale), inputs, heads, size)
        for part, layer, scale in zip(names, layers, (size**-0.5, 1.0, 1.0), strict=True)
    )
    query, key = (rotate(graph, part, turned, size) for part in (query, key))
    attended = attend(graph, query, key, value, bias, heads=heads, size=size)
    output = _linear(config, weights, f"{name}.o_proj", hidden, heads * size, bias=config.attention_bias)
    return project(graph, attended, f"{name}.o_proj", *output)


def _feed_forward(graph: GraphBuilder, config: RotaryEncoder, weights: Weights, x: str, name: str) -> str:
    hidden, inner = config.hidden_size, config.intermediate_size
    if config.gated:
        names = ("up_proj", "gate_proj")
        layers = _linears(config, weights, name, "up_gate_proj", names, inner, hidden, bias=config.input_bias)
        up, gate = (project(graph, x, f"{name}.{part}", *layer) for part, layer in zip(names, layers, strict=True))
        inside = graph.op("Mul", activation(graph, config.hidden_act, gate), up)
    else:
        first = _linear(config, weights, f"{name}.fc1", inner, hidden, bias=config.input_bias)
        inside = activation(graph, config.hidden_act, project(graph, x, f"{name}.fc1", *first))
    output = _linear(config, weights, f"{name}.down_proj", hidden, inner, bias=config.output_bias)
    return project(graph, inside, f"{name}.down_proj", *output)


def _linears(
    config: RotaryEncoder,
    weights: Weights,
    name: str,
    packed: str,
    names: Sequence[str],
    outputs: int,
    inputs: int,
    *,
    bias: bool,
) -> list[Linear]:
    """Several layers of one input, whether the repo stores them one by one or as one."""
    if f"{name}.{packed}.weight" not in weights:
        return [_linear(config, weights, f"{name}.{part}", outputs, inputs, bias=bias) for part in names]
    parts = len(names)
    weight, added = _linear(config, weights, f"{name}.{packed}", parts * outputs, inputs, bias=bias)
    return unpack(weight, added, parts)


def _linear(config: RotaryEncoder, weights: Weights, name: str, outputs: int, inputs: int, *, bias: bool) -> Linear:
    return _weight(config, weights, name, outputs, inputs), weights(f"{name}.bias", outputs) if bias else None


def _weight(
    config: RotaryEncoder, weights: Weights, name: str, rows: int, columns: int, *, transposed: bool = False
) -> NDArray[np.float32]:
    """A weight with the adapter of the task in it: `W + alpha / rank * B @ A` (arXiv:2106.09685).

    `lora_A` is `[tasks, rank, columns]` and `lora_B` is `[tasks, rows, rank]`; for embeddings, which are `transposed`,
    they are `[tasks, rows, rank]` and `[tasks, rank, columns]`, and the product is `A @ B`.
    """
    weight = weights(f"{name}.weight", rows, columns)
    if config.task is None:
        return weight
    tasks, rank, number = len(config.tasks), config.lora_rank, config.tasks.index(config.task)
    tall, wide = ("lora_A", "lora_B") if transposed else ("lora_B", "lora_A")
    left = weights(f"{name}.{tall}", tasks, rows, rank)[number]
    right = weights(f"{name}.{wide}", tasks, rank, columns)[number]
    merged: NDArray[np.float32] = weight + (left @ right) * np.float32(config.lora_alpha / rank)
    return merged

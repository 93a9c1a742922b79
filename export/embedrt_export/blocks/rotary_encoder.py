"""The encoder of NomicBERT, GTE and Jina Embeddings v3: BERT's post-norm layers, with rotary positions.

The variants are data: a `RotaryEncoder` describes one model. Tensors have the names of transformers; where a repo
stores several linear layers as one, the family renames that one to `qkv_proj` or `up_gate_proj`, and the last layer
of a feed-forward is `down_proj`, gated or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.layers.attention import AttentionBias, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.linear import Linear
from embedrt_export.layers.rotary import Rope, Rotation, rotate, rotation
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_multiple, check_sizes, pick

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
        positions: Number of tokens that the positions reach, or None without limit.
        gated: True if the feed-forward has a gate.
        attention_bias: True if the linear layers of the attention have a bias.
        input_bias: True if the first layers of the feed-forward have one.
        output_bias: True if the last layer of the feed-forward has one.
        tasks: The tasks for which the model has adapters.
        task: The task whose adapter is merged; None leaves the adapters out.
        lora_rank: The rank of the adapters.
        lora_alpha: The scale of the adapters, times the rank.
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
    """Keys of config.json by transformers' names; each family has its own defaults."""

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
    """Read a config that has transformers' names for its keys.

    Args:
        config: The parsed config.json.
        defaults: The family's defaults.
        rope: The rotary positions.

    Raises:
        UnsupportedModelError: A key or value is not supported; the message names it.
    """
    keys = pick(Keys, config, defaults=defaults)
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
    """Return the model if its sizes fit each other.

    Raises:
        UnsupportedModelError: The sizes do not fit; the message names the key.
    """
    check_sizes(config, unchecked=("head_dim", "type_vocab_size", "positions"))
    if config.type_vocab_size < 0:
        raise UnsupportedModelError(f"config.json: type_vocab_size: expected 0 or more, got {config.type_vocab_size}")
    if config.head_dim < 2 or config.head_dim % 2:
        raise UnsupportedModelError(
            f"config.json: heads of width {config.head_dim}: rotary positions rotate pairs, so an even number is needed"
        )
    if len(set(config.tasks)) != len(config.tasks):
        raise UnsupportedModelError(f"config.json: a task is listed twice: {', '.join(config.tasks)}")
    return config


def head_size(hidden_size: int, heads: int, head_dim: int | None = None) -> int:
    """Width of one head.

    Raises:
        UnsupportedModelError: The config has no such number.
    """
    if head_dim is not None:
        return head_dim
    check_multiple("hidden_size", hidden_size, "num_attention_heads", heads)
    return hidden_size // heads


def positions(config: RotaryEncoder) -> int | None:
    """Number of tokens that the rotary positions reach."""
    return config.positions


def build(scope: Scope, config: RotaryEncoder) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = attention_bias(scope)
    by = rotation(scope, config.rope, config.head_dim)
    states = [_embeddings(scope.at("embeddings"), config)]
    for i in range(config.num_hidden_layers):
        states.append(_layer(scope.at(f"layers.{i}"), states[-1], bias, by, config))
    return states


def _embeddings(scope: Scope, config: RotaryEncoder) -> str:
    hidden, types = config.hidden_size, scope.inputs.token_type_ids
    words = _weight(scope, "word_embeddings", config, (config.vocab_size, hidden), transposed=True)
    x = scope.op("Gather", scope.add("word_embeddings", words), scope.inputs.input_ids)
    if config.type_vocab_size:
        name = "token_type_embeddings"
        table = _weight(scope, name, config, (config.type_vocab_size, hidden), transposed=True)
        added = scope.add(f"{name}.0", table[0]) if types is None else scope.op("Gather", scope.add(name, table), types)
        x = scope.op("Add", x, added)
    return scope.layer_norm(scope.flatten(x, hidden), "LayerNorm", hidden, config.layer_norm_eps)


def _layer(scope: Scope, x: str, bias: AttentionBias, by: Rotation, config: RotaryEncoder) -> str:
    hidden, epsilon = config.hidden_size, config.layer_norm_eps
    attended = _attention(scope.at("self_attn"), x, bias, by, config)
    x = scope.layer_norm(scope.op("Add", attended, x), "post_attention_layernorm", hidden, epsilon)
    inside = _feed_forward(scope.at("mlp"), x, config)
    return scope.layer_norm(scope.op("Add", inside, x), "post_mlp_layernorm", hidden, epsilon)


def _attention(scope: Scope, x: str, bias: AttentionBias, by: Rotation, config: RotaryEncoder) -> str:
    hidden, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
    names, biased = ("q_proj", "k_proj", "v_proj"), config.attention_bias
    layers = _linears(scope, "qkv_proj", names, config, (heads * size, hidden), bias=biased)
    query, key, value = (
        split_heads(scope, scope.project(x, name, layer.scaled(scale)), heads, size)
        for name, layer, scale in zip(names, layers, (size**-0.5, 1.0, 1.0), strict=True)
    )
    query, key = (rotate(scope.graph, part, by, size) for part in (query, key))
    attended = attend(scope, query, key, value, bias, Heads(heads, size))
    return scope.project(attended, "o_proj", _linear(scope, "o_proj", config, (hidden, heads * size), bias=biased))


def _feed_forward(scope: Scope, x: str, config: RotaryEncoder) -> str:
    hidden, inner = config.hidden_size, config.intermediate_size
    if config.gated:
        names = ("up_proj", "gate_proj")
        layers = _linears(scope, "up_gate_proj", names, config, (inner, hidden), bias=config.input_bias)
        up, gate = (scope.project(x, name, layer) for name, layer in zip(names, layers, strict=True))
        inside = scope.op("Mul", scope.activation(config.hidden_act, gate), up)
    else:
        first = _linear(scope, "fc1", config, (inner, hidden), bias=config.input_bias)
        inside = scope.activation(config.hidden_act, scope.project(x, "fc1", first))
    output = _linear(scope, "down_proj", config, (hidden, inner), bias=config.output_bias)
    return scope.project(inside, "down_proj", output)


def _linears(
    scope: Scope, packed: str, names: Sequence[str], config: RotaryEncoder, shape: tuple[int, int], *, bias: bool
) -> list[Linear]:
    """Read several layers of one input, which the repo stores one by one or as one."""
    if not scope.has(f"{packed}.weight"):
        return [_linear(scope, name, config, shape, bias=bias) for name in names]
    outputs, inputs = shape
    return _linear(scope, packed, config, (len(names) * outputs, inputs), bias=bias).unpack(len(names))


def _linear(scope: Scope, name: str, config: RotaryEncoder, shape: tuple[int, int], *, bias: bool) -> Linear:
    return Linear(_weight(scope, name, config, shape), scope.read(f"{name}.bias", shape[0]) if bias else None)


def _weight(
    scope: Scope, name: str, config: RotaryEncoder, shape: tuple[int, int], *, transposed: bool = False
) -> NDArray[np.float32]:
    """Read a weight and merge the adapter of the task: `W + alpha / rank * B @ A` (arXiv:2106.09685).

    `lora_A` is `[tasks, rank, columns]` and `lora_B` is `[tasks, rows, rank]`; for embeddings, which are `transposed`,
    they are `[tasks, rows, rank]` and `[tasks, rank, columns]`, and the matmul is `A @ B`.
    """
    weight = scope.read(f"{name}.weight", *shape)
    if config.task is None:
        return weight
    rows, columns = shape
    tasks, rank, number = len(config.tasks), config.lora_rank, config.tasks.index(config.task)
    tall, wide = ("lora_A", "lora_B") if transposed else ("lora_B", "lora_A")
    left = scope.read(f"{name}.{tall}", tasks, rows, rank)[number]
    right = scope.read(f"{name}.{wide}", tasks, rank, columns)[number]
    merged: NDArray[np.float32] = weight + (left @ right) * np.float32(config.lora_alpha / rank)
    return merged

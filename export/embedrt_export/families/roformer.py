"""RoFormer: BERT's layers with rotary positions (arXiv:2104.09864) in place of position embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import check_sizes, post_norm
from embedrt_export.families.bert import LAYER
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attend, attention_bias, split_heads
from embedrt_export.layers.embeddings import embed
from embedrt_export.layers.linear import TextInputs, layer_norm, linear, project
from embedrt_export.layers.rotary import Rotation, rotate
from embedrt_export.source.configs import pick
from embedrt_export.source.weights import Weights

_BASE = 10000.0  # of the wavelengths, fixed in the architecture
_TABLE = "encoder.embed_positions.weight"


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers."""

    vocab_size: int = 50000
    embedding_size: int | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 1536
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    rotary_value: bool = False
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json, refusing variants that the graph does not have."""
    read = pick(Config, config)
    check_sizes(read)
    if (read.hidden_size // read.num_attention_heads) % 2:
        raise UnsupportedModelError(
            f"config.json: hidden_size {read.hidden_size} over num_attention_heads {read.num_attention_heads} is odd: "
            "no head of that size can be turned by pairs; check both numbers"
        )
    return read


def positions(config: Config) -> int:
    """Tokens that have a position."""
    return config.max_position_embeddings


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias, turned = attention_bias(graph, inputs), _rotation(graph, config, weights, inputs)
    states = [_embeddings(graph, config, weights, inputs)]
    for i in range(config.num_hidden_layers):
        layer, x = f"encoder.layer.{i}", states[-1]
        attended = _attention(graph, config, weights, x, bias, inputs, layer, turned)
        states.append(post_norm(graph, config, weights, x, attended, layer, LAYER))
    return states


def sinusoids(positions: int, size: int) -> NDArray[np.float32]:
    """Sines and then cosines of every position's angles: float32 `[positions, size]`."""
    angles = np.arange(positions)[:, None] / _BASE ** (2 * np.arange(size // 2) / size)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _embeddings(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> str:
    hidden, width = config.hidden_size, config.embedding_size or config.hidden_size
    x = embed(graph, weights, inputs, width, words=config.vocab_size, types=config.type_vocab_size)
    x = layer_norm(graph, weights, x, "embeddings.LayerNorm", width, config.layer_norm_eps)
    return x if width == hidden else linear(graph, weights, x, "embeddings_project", width, hidden)


def _rotation(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> Rotation:
    """Cosine and sine by position, from the table that the model stores, or as the architecture makes them."""
    rows, size = config.max_position_embeddings, config.hidden_size // config.num_attention_heads
    table = weights(_TABLE, rows, size) if _TABLE in weights else sinusoids(rows, size)
    sin, cos = (
        graph.op("Slice", graph.weight(f"{_TABLE}.{name}", part[:, None]), graph.ints(0), inputs.sequence)
        for name, part in zip(("sin", "cos"), np.split(table, 2, axis=1), strict=True)
    )
    return Rotation(cos, sin, size)


def _attention(
    graph: GraphBuilder,
    config: Config,
    weights: Weights,
    x: str,
    bias: str,
    inputs: TextInputs,
    layer: str,
    turned: Rotation,
) -> str:
    """Attention with queries, keys and perhaps values turned by their position.

    The pairs that turn are neighbours here, and `rotate` turns pairs half a head apart. So the rows of the linear
    layers are put in that order; scores do not change by it, and the layer after the values takes them in that order.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    order = np.arange(hidden).reshape(heads, size // 2, 2).transpose(0, 2, 1).reshape(-1)

    def projected(name: str, *, turn: bool, scale: float = 1.0) -> str:
        weight = weights(f"{layer}.{name}.weight", hidden, hidden) * np.float32(scale)
        added = weights(f"{layer}.{name}.bias", hidden) * np.float32(scale)
        if turn:
            weight, added = weight[order], added[order]
        part = split_heads(graph, project(graph, x, f"{layer}.{name}", weight, added), inputs, heads, size)
        return rotate(graph, part, turned, size) if turn else part

    query = projected(LAYER.query, turn=True, scale=size**-0.5)
    key = projected(LAYER.key, turn=True)
    value = projected(LAYER.value, turn=config.rotary_value)
    attended = attend(graph, query, key, value, bias, heads=heads, size=size)
    name = f"{layer}.{LAYER.attention_output}"
    weight, added = weights(f"{name}.weight", hidden, hidden), weights(f"{name}.bias", hidden)
    return project(graph, attended, name, weight[:, order] if config.rotary_value else weight, added)

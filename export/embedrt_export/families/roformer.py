"""RoFormer: BERT's layers with rotary positions (arXiv:2104.09864) in place of position embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import post_norm
from embedrt_export.families.bert import LAYER
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import AttentionBias, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.embeddings import Tables, embed
from embedrt_export.layers.linear import Linear
from embedrt_export.layers.rotary import Rotation, rotate
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

_BASE = 10000.0  # of the wavelengths, fixed in the architecture
_TABLE = "encoder.embed_positions.weight"


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers."""

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
    """Read config.json; unsupported variants are an error."""
    read = pick(Config, config)
    check_sizes(read)
    if (read.hidden_size // read.num_attention_heads) % 2:
        raise UnsupportedModelError(
            f"config.json: hidden_size {read.hidden_size} over num_attention_heads {read.num_attention_heads} is odd: "
            "no head of that size can be rotated by pairs; check both numbers"
        )
    return read


def positions(config: Config) -> int:
    """Number of tokens that have a position."""
    return config.max_position_embeddings


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias, by = attention_bias(scope), _rotation(scope, config)
    states = [_embeddings(scope, config)]
    for i in range(config.num_hidden_layers):
        layer, x = scope.at(f"encoder.layer.{i}"), states[-1]
        states.append(post_norm(layer, x, _attention(layer, x, bias, by, config), config, LAYER))
    return states


def sinusoids(positions: int, size: int) -> NDArray[np.float32]:
    """Sines, then cosines of every position's angles: float32 `[positions, size]`."""
    angles = np.arange(positions)[:, None] / _BASE ** (2 * np.arange(size // 2) / size)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _embeddings(scope: Scope, config: Config) -> str:
    hidden, width = config.hidden_size, config.embedding_size or config.hidden_size
    x = embed(scope, width, Tables(config.vocab_size, types=config.type_vocab_size))
    x = scope.layer_norm(x, "embeddings.LayerNorm", width, config.layer_norm_eps)
    return x if width == hidden else scope.linear(x, "embeddings_project", width, hidden)


def _rotation(scope: Scope, config: Config) -> Rotation:
    """Add cosine and sine by position, from the table that the model stores, or from the architecture's formula."""
    rows, size = config.max_position_embeddings, config.hidden_size // config.num_attention_heads
    table = scope.read(_TABLE, rows, size) if scope.has(_TABLE) else sinusoids(rows, size)
    halves = dict(zip(("sin", "cos"), np.split(table, 2, axis=1), strict=True))
    if scope.graph.is_packed:
        sin, cos = (scope.add(f"{_TABLE}.{name}", part) for name, part in halves.items())
        return Rotation(cos, sin, size)
    sin, cos = (
        scope.op("Slice", scope.add(f"{_TABLE}.{name}", part[:, None]), scope.graph.ints(0), scope.inputs.sequence)
        for name, part in halves.items()
    )
    return Rotation(cos, sin, size)


def _attention(scope: Scope, x: str, bias: AttentionBias, by: Rotation, config: Config) -> str:
    """Add attention with rotated queries and keys, and values too if the config asks for it.

    The rotated pairs are neighbors here, and `rotate` rotates pairs half a head apart. So the rows of the linear
    layers are permuted into that order; scores do not change by it, and the layer after the values takes its columns
    in that order.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    order = np.arange(hidden).reshape(heads, size // 2, 2).transpose(0, 2, 1).reshape(-1)

    def projected(name: str, *, rotated: bool, scale: float = 1.0) -> str:
        weight, added = scope.read_linear(name, hidden, hidden).scaled(scale)
        if rotated and added is not None:
            weight, added = weight[order], added[order]
        part = split_heads(scope, scope.project(x, name, Linear(weight, added)), heads, size)
        return rotate(scope.graph, part, by, size) if rotated else part

    query = projected(LAYER.query, rotated=True, scale=size**-0.5)
    key = projected(LAYER.key, rotated=True)
    value = projected(LAYER.value, rotated=config.rotary_value)
    attended = attend(scope, query, key, value, bias, Heads(heads, size))
    weight, added = scope.read_linear(LAYER.attention_output, hidden, hidden)
    output = Linear(weight[:, order] if config.rotary_value else weight, added)
    return scope.project(attended, LAYER.attention_output, output)


FAMILY = Family(
    read_config=read_config,
    prefixes=("roformer.",),
    backbone=("embeddings.", "embeddings_project.", "encoder."),
    positions=positions,
    build=build,
)

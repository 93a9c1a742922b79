"""DeBERTa v2 and v3: attention also between contents and relative positions (arXiv:2006.03654)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.families.family import Family
from embedrt_export.graph.builder import FLOAT
from embedrt_export.layers.attention import AttentionBias, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.relative import pick_offsets
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

_UNCHECKED = ("type_vocab_size", "max_relative_positions", "position_buckets", "conv_kernel_size")  # 0 or -1 is none


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers."""

    vocab_size: int = 128100
    hidden_size: int = 1536
    embedding_size: int | None = None
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    attention_head_size: int | None = None
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    position_biased_input: bool = True
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    pos_att_type: tuple[str, ...] = ()
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"

    @property
    def farthest(self) -> int:
        """Offset from which on all share one relative position."""
        return self.max_position_embeddings if self.max_relative_positions < 1 else self.max_relative_positions

    @property
    def span(self) -> int:
        """Half the number of relative positions."""
        return self.position_buckets if self.position_buckets > 0 else self.farthest

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def scale(self) -> float:
        """Factor of every part of the scores: the more parts, the smaller."""
        parts = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        return float(1 / np.sqrt(self.head_size * parts))


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    kinds = config.get("pos_att_type")
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    read = pick(Config, {**config, "pos_att_type": kinds})
    check_sizes(read, unchecked=_UNCHECKED)
    for kind in read.pos_att_type:
        if kind not in {"c2p", "p2c", "none", ""}:
            raise UnsupportedModelError(f"config.json: pos_att_type {kind!r} is not supported; supported: c2p, p2c")
    if read.position_buckets > 0 and (read.position_buckets % 2 or read.farthest <= read.position_buckets // 2 + 1):
        raise UnsupportedModelError(
            f"config.json: position_buckets {read.position_buckets} for {read.farthest} relative positions: expected "
            "an even number, less than twice as many"
        )
    if read.conv_kernel_size > 0 and not read.conv_kernel_size % 2:
        raise UnsupportedModelError(
            f"config.json: conv_kernel_size {read.conv_kernel_size} is even, which would change the number of tokens"
        )
    return read


def positions(config: Config) -> int | None:
    """Number of tokens that have a position embedding; relative positions reach any length."""
    return config.max_position_embeddings if config.position_biased_input else None


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    mask = attention_bias(scope)
    relative = _relative_embeddings(scope.at("encoder"), config) if config.relative_attention else None
    states = [_embeddings(scope.at("embeddings"), config)]
    for i in range(config.num_hidden_layers):
        x = _layer(scope.at(f"encoder.layer.{i}"), states[-1], mask, config, relative)
        if i == 0 and config.conv_kernel_size > 0:
            x = _convolution(scope.at("encoder.conv"), states[0], x, config)
        states.append(x)
    return states


def relative_position(offset: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """Relative position of each offset `query - key`.

    Without buckets it is the offset. With buckets, the near half has one each, the rest lie logarithmically up to
    `farthest`.
    """
    if buckets <= 0:
        return offset
    middle = buckets // 2
    distance = np.maximum(np.abs(offset), middle - 1).astype(np.float32)
    growth = np.log(distance / np.float32(middle)) / np.log(np.float32((farthest - 1) / middle))
    far = np.ceil(growth * np.float32(middle - 1)).astype(np.int64) + middle
    return np.where(np.abs(offset) <= middle, offset, far * np.sign(offset))


def _embeddings(scope: Scope, config: Config) -> str:
    hidden, width, inputs = config.hidden_size, config.embedding_size or config.hidden_size, scope.inputs
    words = scope.read("word_embeddings.weight", config.vocab_size, width)
    types = None
    if config.type_vocab_size > 0:
        types = scope.read("token_type_embeddings.weight", config.type_vocab_size, width)
        if inputs.token_type_ids is None:
            words = words + types[0]
    x = scope.op("Gather", scope.add("word_embeddings.weight", words), inputs.input_ids)
    if config.position_biased_input:
        positions = scope.read("position_embeddings.weight", config.max_position_embeddings, width)
        table = scope.add("position_embeddings.weight", positions)
        x = scope.op("Add", x, scope.op("Slice", table, scope.graph.ints(0), inputs.sequence))
    if types is not None and inputs.token_type_ids is not None:
        table = scope.add("token_type_embeddings.weight", types)
        x = scope.op("Add", x, scope.op("Gather", table, inputs.token_type_ids))
    x = scope.flatten(x, width)
    if width != hidden:
        x = scope.linear(x, "embed_proj", width, hidden, bias=False)
    x = scope.layer_norm(x, "LayerNorm", hidden, config.layer_norm_eps)
    return scope.op("Mul", x, _is_token(scope))


def _is_token(scope: Scope) -> str:
    """Add 1 for tokens and 0 for padding: float32 `[tokens, 1]`."""
    return scope.flatten(scope.graph.to_hidden(scope.op("Cast", scope.inputs.attention_mask, to=FLOAT)), 1)


def _relative_embeddings(scope: Scope, config: Config) -> NDArray[np.float32]:
    """Read `[2 x span, hidden]`, normalized if the config asks for it."""
    table = scope.read("rel_embeddings.weight", 2 * config.span, config.hidden_size)
    if "layer_norm" not in [part.strip() for part in config.norm_rel_ebd.lower().split("|")]:
        return table
    scale, shift = (scope.read(f"LayerNorm.{part}", config.hidden_size) for part in ("weight", "bias"))
    centered = table - table.mean(axis=1, keepdims=True, dtype=np.float64)
    normed = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + config.layer_norm_eps)
    result: NDArray[np.float32] = (normed * scale + shift).astype(np.float32)
    return result


def _layer(scope: Scope, x: str, mask: AttentionBias, config: Config, relative: NDArray[np.float32] | None) -> str:
    hidden, heads, size, epsilon = (
        config.hidden_size,
        config.num_attention_heads,
        config.head_size,
        config.layer_norm_eps,
    )
    own = scope.at("attention.self")
    layers = {name: own.read_linear(name, hidden, heads * size) for name in ("query_proj", "key_proj", "value_proj")}
    query, key, value = (split_heads(scope, own.project(x, name, layer), heads, size) for name, layer in layers.items())
    query = scope.op("Mul", query, scope.graph.scalar(config.scale))
    bias = mask.term
    if relative is not None:
        for kind, side, shared, alone in (
            ("c2p", query, "key_proj", "pos_key_proj"),
            ("p2c", key, "query_proj", "pos_query_proj"),
        ):
            if kind not in config.pos_att_type:
                continue
            layer = layers[shared] if config.share_att_key else own.read_linear(alone, hidden, heads * size)
            projected = layer.apply(relative.astype(np.float64)) * (config.scale if kind == "p2c" else 1.0)
            table = projected.astype(np.float32).reshape(2 * config.span, heads, size).transpose(1, 2, 0)
            scores = scope.op("MatMul", scope.op("Transpose", side, perm=[0, 2, 1, 3]), own.add(kind, table))
            bias = scope.op("Add", bias, _by_offset(scope, config, scores, kind))
    attended = attend(scope, query, key, value, AttentionBias(bias), Heads(heads, size))
    attended = scope.linear(attended, "attention.output.dense", heads * size, hidden)
    x = scope.layer_norm(scope.op("Add", attended, x), "attention.output.LayerNorm", hidden, epsilon)
    inside = scope.linear(x, "intermediate.dense", hidden, config.intermediate_size)
    inside = scope.activation(config.hidden_act, inside)
    inside = scope.linear(inside, "output.dense", config.intermediate_size, hidden)
    return scope.layer_norm(scope.op("Add", inside, x), "output.LayerNorm", hidden, epsilon)


def _by_offset(scope: Scope, config: Config, scores: str, kind: str) -> str:
    """Pick each pair's relative position from `scores` `[batch, heads, sequence, 2 x span]`.

    Returns:
        float32 `[batch, heads, queries, keys]`.
    """
    span, farthest = config.span, config.farthest
    # Offsets count from the row to the column: from query to key for "c2p", from key to query for "p2c". Both want
    # query - key, and the ends of the table hold all farther offsets.
    relative = relative_position(-np.arange(-farthest, farthest + 1), config.position_buckets, farthest)
    columns = np.clip(span + (relative if kind == "c2p" else -relative), 0, 2 * span - 1)
    picked = pick_offsets(scope, scores, columns)
    return picked if kind == "c2p" else scope.op("Transpose", picked, perm=[0, 1, 3, 2])


def _convolution(scope: Scope, embedded: str, x: str, config: Config) -> str:
    """Add a convolution over the embeddings to the first layer's output `x` `[tokens, hidden]`."""
    hidden, width, groups = config.hidden_size, config.conv_kernel_size, config.conv_groups
    kernel = scope.add("conv.weight", scope.read("conv.weight", hidden, hidden // groups, width))
    bias = scope.add("conv.bias", scope.read("conv.bias", hidden))
    by_channel = scope.op("Transpose", scope.unflatten(embedded, hidden), perm=[0, 2, 1])
    around = (width - 1) // 2
    mixed = scope.op("Conv", by_channel, kernel, bias, group=groups, pads=[around, around])
    mixed = scope.flatten(scope.op("Transpose", mixed, perm=[0, 2, 1]), hidden)
    is_token = _is_token(scope)
    mixed = scope.activation(config.conv_act, scope.op("Mul", mixed, is_token))
    normed = scope.layer_norm(scope.op("Add", x, mixed), "LayerNorm", hidden, config.layer_norm_eps)
    return scope.op("Mul", normed, is_token)


FAMILY = Family(
    read_config=read_config,
    prefixes=("deberta.",),
    backbone=("embeddings.", "encoder."),
    positions=positions,
    build=build,
    packs=False,
    ignored=(r"embeddings\.position_embeddings\.weight",),  # stored by repos whose config leaves it out
)

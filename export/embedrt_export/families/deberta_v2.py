"""DeBERTa v2 and v3: attention also between contents and relative positions (arXiv:2006.03654)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import FLOAT, GraphBuilder
from embedrt_export.layers.attention import attend, attention_bias, split_heads
from embedrt_export.layers.linear import TextInputs, activation, flatten, layer_norm, linear, project, unflatten
from embedrt_export.layers.relative import pick_offsets
from embedrt_export.source.configs import check_positive, pick
from embedrt_export.source.weights import Weights

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers."""

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
        """The offset beyond which all are alike."""
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
        """What every part of the scores is multiplied with: the more parts, the less each."""
        parts = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        return float(1 / np.sqrt(self.head_size * parts))


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json, refusing variants that the graph does not have."""
    kinds = config.get("pos_att_type")
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    read = pick(Config, {**config, "pos_att_type": kinds})
    check_positive(read, *SIZES, "max_position_embeddings", "attention_head_size", "embedding_size", "conv_groups")
    if read.hidden_size % read.num_attention_heads:
        raise UnsupportedModelError(
            f"config.json: hidden_size {read.hidden_size} is not a multiple of "
            f"num_attention_heads {read.num_attention_heads}"
        )
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
    """Tokens that have a position embedding; relative positions reach any length."""
    return config.max_position_embeddings if config.position_biased_input else None


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    mask = attention_bias(graph, inputs)
    relative = _relative_embeddings(config, weights) if config.relative_attention else None
    states = [_embeddings(graph, config, weights, inputs)]
    for i in range(config.num_hidden_layers):
        x = _layer(graph, config, weights, states[-1], mask, inputs, relative, f"encoder.layer.{i}")
        if i == 0 and config.conv_kernel_size > 0:
            x = _convolution(graph, config, weights, states[0], x, inputs)
        states.append(x)
    return states


def place(offset: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """The relative position of each offset `query - key`.

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


def _embeddings(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> str:
    hidden, width = config.hidden_size, config.embedding_size or config.hidden_size
    words = weights("embeddings.word_embeddings.weight", config.vocab_size, width)
    types = None
    if config.type_vocab_size > 0:
        types = weights("embeddings.token_type_embeddings.weight", config.type_vocab_size, width)
        if inputs.token_type_ids is None:
            words = words + types[0]
    x = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight", words), inputs.input_ids)
    if config.position_biased_input:
        places = weights("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
        table = graph.weight("embeddings.position_embeddings.weight", places)
        x = graph.op("Add", x, graph.op("Slice", table, graph.ints(0), inputs.sequence))
    if types is not None and inputs.token_type_ids is not None:
        table = graph.weight("embeddings.token_type_embeddings.weight", types)
        x = graph.op("Add", x, graph.op("Gather", table, inputs.token_type_ids))
    x = flatten(graph, x, width)
    if width != hidden:
        x = linear(graph, weights, x, "embeddings.embed_proj", width, hidden, bias=False)
    x = layer_norm(graph, weights, x, "embeddings.LayerNorm", hidden, config.layer_norm_eps)
    return graph.op("Mul", x, _is_token(graph, inputs))


def _is_token(graph: GraphBuilder, inputs: TextInputs) -> str:
    """1 for tokens and 0 for padding: float32 `[tokens, 1]`."""
    return flatten(graph, graph.op("Cast", inputs.attention_mask, to=FLOAT), 1)


def _relative_embeddings(config: Config, weights: Weights) -> NDArray[np.float32]:
    """`[2 x span, hidden]`, normalized if the config says so."""
    table = weights("encoder.rel_embeddings.weight", 2 * config.span, config.hidden_size)
    if "layer_norm" not in [part.strip() for part in config.norm_rel_ebd.lower().split("|")]:
        return table
    scale, shift = (weights(f"encoder.LayerNorm.{part}", config.hidden_size) for part in ("weight", "bias"))
    centered = table - table.mean(axis=1, keepdims=True, dtype=np.float64)
    normed = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + config.layer_norm_eps)
    result: NDArray[np.float32] = (normed * scale + shift).astype(np.float32)
    return result


def _layer(
    graph: GraphBuilder,
    config: Config,
    weights: Weights,
    x: str,
    mask: str,
    inputs: TextInputs,
    relative: NDArray[np.float32] | None,
    layer: str,
) -> str:
    hidden, heads, size, epsilon = (
        config.hidden_size,
        config.num_attention_heads,
        config.head_size,
        config.layer_norm_eps,
    )
    own = f"{layer}.attention.self"
    tables = {
        name: (weights(f"{own}.{name}.weight", heads * size, hidden), weights(f"{own}.{name}.bias", heads * size))
        for name in ("query_proj", "key_proj", "value_proj")
    }
    query, key, value = (
        split_heads(graph, project(graph, x, f"{own}.{name}", weight, bias), inputs, heads, size)
        for name, (weight, bias) in tables.items()
    )
    query = graph.op("Mul", query, graph.scalar(config.scale))
    bias = mask
    if relative is not None:
        for kind, side, shared, alone in (
            ("c2p", query, "key_proj", "pos_key_proj"),
            ("p2c", key, "query_proj", "pos_query_proj"),
        ):
            if kind not in config.pos_att_type:
                continue
            weight, added = (
                tables[shared]
                if config.share_att_key
                else (
                    weights(f"{own}.{alone}.weight", heads * size, hidden),
                    weights(f"{own}.{alone}.bias", heads * size),
                )
            )
            projected = (relative.astype(np.float64) @ weight.T + added) * (config.scale if kind == "p2c" else 1.0)
            places = projected.astype(np.float32).reshape(2 * config.span, heads, size).transpose(1, 2, 0)
            scores = graph.op(
                "MatMul", graph.op("Transpose", side, perm=[0, 2, 1, 3]), graph.weight(f"{own}.{kind}", places)
            )
            bias = graph.op("Add", bias, _by_offset(graph, config, scores, inputs, kind))
    attended = attend(graph, query, key, value, bias, heads=heads, size=size)
    attended = linear(graph, weights, attended, f"{layer}.attention.output.dense", heads * size, hidden)
    x = layer_norm(graph, weights, graph.op("Add", attended, x), f"{layer}.attention.output.LayerNorm", hidden, epsilon)
    inside = linear(graph, weights, x, f"{layer}.intermediate.dense", hidden, config.intermediate_size)
    inside = activation(graph, config.hidden_act, inside)
    inside = linear(graph, weights, inside, f"{layer}.output.dense", config.intermediate_size, hidden)
    return layer_norm(graph, weights, graph.op("Add", inside, x), f"{layer}.output.LayerNorm", hidden, epsilon)


def _by_offset(graph: GraphBuilder, config: Config, scores: str, inputs: TextInputs, kind: str) -> str:
    """Picks each pair's relative position out of `scores` `[batch, heads, sequence, 2 x span]`.

    Returns:
        float32 `[batch, heads, queries, keys]`.
    """
    span, farthest = config.span, config.farthest
    # Offsets count from the row to the column: from query to key for "c2p", from key to query for "p2c". Both want
    # query - key, and the ends of the table hold what is farther.
    relative = place(-np.arange(-farthest, farthest + 1), config.position_buckets, farthest)
    at = np.clip(span + (relative if kind == "c2p" else -relative), 0, 2 * span - 1)
    picked = pick_offsets(graph, scores, at, inputs)
    return picked if kind == "c2p" else graph.op("Transpose", picked, perm=[0, 1, 3, 2])


def _convolution(
    graph: GraphBuilder, config: Config, weights: Weights, embedded: str, x: str, inputs: TextInputs
) -> str:
    """A convolution over the embeddings, added to the first layer's output `x` `[tokens, hidden]`."""
    hidden, width, groups = config.hidden_size, config.conv_kernel_size, config.conv_groups
    kernel = graph.weight(
        "encoder.conv.conv.weight", weights("encoder.conv.conv.weight", hidden, hidden // groups, width)
    )
    bias = graph.weight("encoder.conv.conv.bias", weights("encoder.conv.conv.bias", hidden))
    by_channel = graph.op("Transpose", unflatten(graph, embedded, inputs.shape, hidden), perm=[0, 2, 1])
    around = (width - 1) // 2
    mixed = graph.op("Conv", by_channel, kernel, bias, group=groups, pads=[around, around])
    mixed = flatten(graph, graph.op("Transpose", mixed, perm=[0, 2, 1]), hidden)
    is_token = _is_token(graph, inputs)
    mixed = activation(graph, config.conv_act, graph.op("Mul", mixed, is_token))
    summed = graph.op("Add", x, mixed)
    normed = layer_norm(graph, weights, summed, "encoder.conv.LayerNorm", hidden, config.layer_norm_eps)
    return graph.op("Mul", normed, is_token)

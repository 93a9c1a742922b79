"""MPNet: positions counted from the padding id on, and one table of relative position biases for all layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.attention import attention_bias, token_positions
from embedrt_export.configs import pick
from embedrt_export.embeddings import embed, positions_left
from embedrt_export.encoder import LayerNames, check_sizes, encoder_layer
from embedrt_export.graph import GraphBuilder
from embedrt_export.layers import TextInputs, layer_norm
from embedrt_export.weights import Weights

_PADDING_ID = 1  # fixed in the architecture, whatever the tokenizer pads with
_BUCKETS = 32  # the architecture uses so many, whatever relative_attention_num_buckets says
_MAX_DISTANCE = 128

LAYER = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
)


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers."""

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = 32


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json, refusing sizes for which the architecture fails."""
    read = pick(Config, config)
    check_sizes(read)
    if read.relative_attention_num_buckets < _BUCKETS:
        raise UnsupportedModelError(
            f"config.json: relative_attention_num_buckets {read.relative_attention_num_buckets} is less than the "
            f"{_BUCKETS} that the architecture uses"
        )
    positions(read)
    return read


def positions(config: Config) -> int:
    """Tokens that have a position embedding: the first two rows belong to padding."""
    return positions_left(config.max_position_embeddings, _PADDING_ID)


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = graph.op("Add", _relative_bias(graph, config, weights, inputs), attention_bias(graph, inputs))
    x = embed(
        graph,
        weights,
        inputs,
        config.hidden_size,
        words=config.vocab_size,
        positions=config.max_position_embeddings,
        padding_id=_PADDING_ID,
    )
    states = [layer_norm(graph, weights, x, "embeddings.LayerNorm", config.hidden_size, config.layer_norm_eps)]
    for i in range(config.num_hidden_layers):
        states.append(encoder_layer(graph, config, weights, states[-1], bias, inputs, f"encoder.layer.{i}", LAYER))
    return states


def bucket(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each relative position `key - query`.

    Half of the buckets are for keys before and half for keys after the query. Of each half, the first part holds one
    offset each and the rest ever wider spans, logarithmically up to 128 (the scheme of T5, arXiv:1910.10683).
    """
    half = _BUCKETS // 2
    exact = half // 2
    distance = np.abs(offsets)
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(_MAX_DISTANCE / exact)
    )
    wide = np.minimum(exact + (growth * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(offsets > 0, half, 0) + np.where(distance < exact, distance, wide)


def _relative_bias(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> str:
    """Bias by offset between key and query: float32 `[1, heads, sequence, sequence]`."""
    longest = positions(config)
    table = weights(
        "encoder.relative_attention_bias.weight", config.relative_attention_num_buckets, config.num_attention_heads
    )
    by_offset = table[bucket(np.arange(-longest + 1, longest))].T  # [heads, 2 x longest - 1]
    values = graph.weight("encoder.relative_attention_bias.by_offset", by_offset)
    place = token_positions(graph, inputs)
    offset = graph.op("Sub", graph.op("Unsqueeze", place, graph.ints(0)), graph.op("Unsqueeze", place, graph.ints(1)))
    bias = graph.op("Gather", values, graph.op("Add", offset, graph.index(longest - 1)), axis=1)
    return graph.op("Unsqueeze", bias, graph.ints(0))

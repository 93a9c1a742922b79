"""MPNet: positions counted from the padding id on, and one table of relative position biases for all layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import LayerNames, check_sizes, encoder_layer
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import embed, positions_left
from embedrt_export.layers.linear import TextInputs, layer_norm
from embedrt_export.layers.relative import bucket_bias
from embedrt_export.source.configs import pick
from embedrt_export.source.weights import Weights

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
    name = "encoder.relative_attention_bias"
    table = weights(f"{name}.weight", config.relative_attention_num_buckets, config.num_attention_heads)
    by_offset = bucket_bias(graph, table[:_BUCKETS], name, inputs, _MAX_DISTANCE)
    bias = graph.op("Add", by_offset, attention_bias(graph, inputs))
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

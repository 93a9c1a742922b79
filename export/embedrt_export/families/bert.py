"""BERT: absolute positions, token types, post-norm layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt_export.attention import attention_bias
from embedrt_export.configs import pick
from embedrt_export.encoder import LayerNames, check_sizes, encoder_layer
from embedrt_export.graph import GraphBuilder
from embedrt_export.layers import TextInputs, flatten, layer_norm
from embedrt_export.weights import Weights

LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
)


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json, refusing variants that the graph does not have."""
    read = pick(Config, config)
    check_sizes(read)
    return read


def positions(config: Config) -> int:
    """Tokens that have a position embedding."""
    return config.max_position_embeddings


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = attention_bias(graph, inputs)
    states = [_embeddings(graph, config, weights, inputs)]
    for i in range(config.num_hidden_layers):
        states.append(encoder_layer(graph, config, weights, states[-1], bias, inputs, f"encoder.layer.{i}", LAYER))
    return states


def _embeddings(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> str:
    hidden = config.hidden_size
    words = weights("embeddings.word_embeddings.weight", config.vocab_size, hidden)
    places = weights("embeddings.position_embeddings.weight", config.max_position_embeddings, hidden)
    types = weights("embeddings.token_type_embeddings.weight", config.type_vocab_size, hidden)
    x = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight", words), inputs.input_ids)
    if inputs.token_type_ids is None:
        places = places + types[0]
    else:
        table = graph.weight("embeddings.token_type_embeddings.weight", types)
        x = graph.op("Add", x, graph.op("Gather", table, inputs.token_type_ids))
    table = graph.weight("embeddings.position_embeddings.weight", places)
    x = graph.op("Add", x, graph.op("Slice", table, graph.ints(0), inputs.sequence))
    return layer_norm(graph, weights, flatten(graph, x, hidden), "embeddings.LayerNorm", hidden, config.layer_norm_eps)

"""ALBERT: narrow embeddings and a linear layer after them; layers that share their parameters in groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt_export.blocks.bert import LayerNames, encoder_layer
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import Tables, embed
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

LAYER = LayerNames(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention_output="attention.dense",
    attention_norm="attention.LayerNorm",
    feed_forward_input="ffn",
    feed_forward_output="ffn_output",
    output_norm="full_layer_layer_norm",
)


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers."""

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    read = pick(Config, config)
    check_sizes(read)
    return read


def positions(config: Config) -> int:
    """Number of tokens that have a position embedding."""
    return config.max_position_embeddings


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = attention_bias(scope)
    states = [_embeddings(scope, config)]
    for i in range(config.num_hidden_layers):
        # As transformers divides: the groups follow one another, each for about as many layers.
        group = int(i / (config.num_hidden_layers / config.num_hidden_groups))
        for inner in range(config.inner_group_num):
            layer = scope.at(f"encoder.albert_layer_groups.{group}.albert_layers.{inner}")
            states.append(encoder_layer(layer, states[-1], bias, config, LAYER))
    return states


def _embeddings(scope: Scope, config: Config) -> str:
    width = config.embedding_size
    tables = Tables(config.vocab_size, positions=config.max_position_embeddings, types=config.type_vocab_size)
    x = embed(scope, width, tables)
    x = scope.layer_norm(x, "embeddings.LayerNorm", width, config.layer_norm_eps)
    return scope.linear(x, "encoder.embedding_hidden_mapping_in", width, config.hidden_size)


FAMILY = Family(
    read_config=read_config,
    prefixes=("albert.",),
    backbone=("embeddings.", "encoder."),
    positions=positions,
    build=build,
)

"""MPNet: positions counted from the padding id on, and one table of relative position biases for all layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import LayerNames, encoder_layer
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import Tables, embed, positions_left
from embedrt_export.layers.relative import bucket_bias
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

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
    """Keys of config.json that change the vectors, with the defaults of transformers."""

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
    """Read config.json; sizes for which the architecture fails are an error."""
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
    """Number of tokens that have a position embedding: the first two rows belong to padding."""
    return positions_left(config.max_position_embeddings, _PADDING_ID)


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    name = "encoder.relative_attention_bias"
    table = scope.read(f"{name}.weight", config.relative_attention_num_buckets, config.num_attention_heads)
    by_offset = bucket_bias(scope, table[:_BUCKETS], name, _MAX_DISTANCE)
    bias = attention_bias(scope, relative=by_offset)
    tables = Tables(config.vocab_size, positions=config.max_position_embeddings, padding_id=_PADDING_ID)
    x = embed(scope, config.hidden_size, tables)
    states = [scope.layer_norm(x, "embeddings.LayerNorm", config.hidden_size, config.layer_norm_eps)]
    for i in range(config.num_hidden_layers):
        states.append(encoder_layer(scope.at(f"encoder.layer.{i}"), states[-1], bias, config, LAYER))
    return states


FAMILY = Family(
    read_config=read_config,
    prefixes=("mpnet.",),
    backbone=("embeddings.", "encoder."),
    positions=positions,
    build=build,
)

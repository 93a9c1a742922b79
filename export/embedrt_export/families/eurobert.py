"""EuroBERT: the stack of Llama with attention in both directions."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedrt_export.blocks import decoder
from embedrt_export.blocks.decoder import Decoder, DecoderLayer
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import AttentionWindow
from embedrt_export.layers.rotary import Rope, config_rope
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers; `rope` stands for several."""

    vocab_size: int = 128256
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: Rope = field(default_factory=Rope)


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    keys = pick(Config, {key: value for key, value in config.items() if key != "rope"})
    read = dataclasses.replace(keys, rope=config_rope(config, theta=10000.0))
    check_sizes(read)
    _decoder(read)
    return read


def positions(config: Config) -> None:
    """Rotary positions have no limit."""


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]`, the last with the final norm."""
    return decoder.build(scope, _decoder(config))


def _decoder(config: Config) -> Decoder:
    heads = config.num_attention_heads
    size = config.head_dim or config.hidden_size // max(heads, 1)
    return decoder.check(
        Decoder(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            heads=heads,
            key_heads=config.num_key_value_heads or heads,
            head_size=size,
            inner_size=config.intermediate_size,
            activation=config.hidden_act,
            epsilon=config.rms_norm_eps,
            layers=(DecoderLayer(AttentionWindow(), config.rope),) * config.num_hidden_layers,
            query_scale=size**-0.5,
            input_bias=config.attention_bias,
            output_bias=config.attention_bias,
            inner_bias=config.mlp_bias,
        )
    )


FAMILY = Family(
    read_config=read_config,
    prefixes=decoder.PREFIXES,
    backbone=decoder.BACKBONE,
    positions=positions,
    build=build,
    ignored=decoder.IGNORED,
)

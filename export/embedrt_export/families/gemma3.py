"""The text part of Gemma 3, and EmbeddingGemma: norms around every part, two kinds of layers, each with positions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks import decoder
from embedrt_export.blocks.decoder import Decoder, DecoderLayer
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import AttentionWindow
from embedrt_export.layers.rotary import Rope
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers."""

    vocab_size: int = 262208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    query_pre_attn_scalar: float = 256
    sliding_window: int | None = None
    sliding_window_pattern: int = 6
    layer_types: tuple[str, ...] | None = None
    use_bidirectional_attention: bool = False
    is_causal: bool = True
    rope_theta: float = 1000000.0
    rope_local_base_freq: float = 10000.0
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    rope_parameters: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    decoder.require_plain_code(config)
    if config.get("attn_logit_softcapping") is not None:
        raise UnsupportedModelError(
            f"config.json: attn_logit_softcapping {config['attn_logit_softcapping']} is not supported; supported: null"
        )
    read = pick(Config, {"sliding_window": 4096, **config})
    if unknown := set(read.rope_parameters) - set(decoder.LAYER_TYPES):
        raise UnsupportedModelError(
            f"config.json.rope_parameters: {', '.join(sorted(unknown))}: expected one object for each of "
            f"{', '.join(decoder.LAYER_TYPES)}"
        )
    check_sizes(read, unchecked=("sliding_window",))
    if read.query_pre_attn_scalar <= 0:
        raise UnsupportedModelError(
            f"config.json.query_pre_attn_scalar: expected a positive number, got {read.query_pre_attn_scalar}"
        )
    _decoder(read)
    return read


def positions(config: Config) -> int | None:
    """Number of tokens that the rotary positions reach."""
    reaches = [decoder.reach(_rope_parameters(config, kind), config.max_position_embeddings) for kind in _types(config)]
    return next((longest for longest in reaches if longest is not None), None)


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    return decoder.build(scope, _decoder(config))


def _decoder(config: Config) -> Decoder:
    return decoder.check(
        Decoder(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_size=config.head_dim,
            inner_size=config.intermediate_size,
            activation=config.hidden_activation,
            epsilon=config.rms_norm_eps,
            layers=tuple(_layer(config, kind) for kind in _types(config)),
            query_scale=config.query_pre_attn_scalar**-0.5,
            embedding_scale=config.hidden_size**0.5,
            norm_offset=1.0,
            input_bias=config.attention_bias,
            output_bias=config.attention_bias,
            head_norms=True,
            sandwich=True,
        )
    )


def _types(config: Config) -> tuple[str, ...]:
    default = tuple(
        "sliding_attention" if (i + 1) % config.sliding_window_pattern else "full_attention"
        for i in range(config.num_hidden_layers)
    )
    return decoder.layer_types(config.layer_types, default)


def _layer(config: Config, kind: str) -> DecoderLayer:
    return DecoderLayer(_window(config, kind), _rope(config, kind))


def _window(config: Config, kind: str) -> AttentionWindow:
    window = None
    if kind == "sliding_attention":
        if config.sliding_window is None:
            raise UnsupportedModelError("config.json: a layer has 'sliding_attention', but sliding_window is null")
        window = config.sliding_window
    if not config.use_bidirectional_attention:
        return decoder.attention_window(window, causal=config.is_causal)
    if window is not None:
        # The window of the causal model is spread over both sides; `is_causal` false counts one token more.
        window = window // 2 + (0 if config.is_causal else 1)
        if window == 0:
            return AttentionWindow(before=0, after=0)
    return decoder.attention_window(window, causal=False)


def _rope_parameters(config: Config, kind: str) -> dict[str, Any]:
    stretched = config.rope_scaling if kind == "full_attention" else {}
    return {**config.rope_parameters.get(kind, {}), **stretched}


def _rope(config: Config, kind: str) -> Rope:
    where = f"config.json.rope_parameters.{kind}"
    rope = decoder.read_positions(
        _rope_parameters(config, kind),
        where,
        theta=config.rope_theta if kind == "full_attention" else config.rope_local_base_freq,
        longest=config.max_position_embeddings,
    )
    if rope.rope_type == "yarn" and not rope.truncate:
        raise UnsupportedModelError(f"{where}: truncate false is not supported; transformers reads it elsewhere")
    return rope


FAMILY = Family(
    read_config=read_config,
    prefixes=decoder.PREFIXES,
    backbone=decoder.BACKBONE,
    positions=positions,
    build=build,
    ignored=decoder.IGNORED,
)

"""Llama, Mistral, Qwen2 and Qwen3: one decoder, which differs in biases, norms of heads and sliding windows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks import decoder
from embedrt_export.blocks.decoder import Decoder, DecoderLayer
from embedrt_export.families.family import Family
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers for Llama.

    `attention_bias` stands for queries, keys and values, and but for Qwen2 for the attention's output too.
    """

    model_type: str
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_parameters: dict[str, Any] = field(default_factory=dict)
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False
    is_causal: bool = True
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: int = 28
    layer_types: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Variant:
    """A model type: defaults that differ from Llama's, keys with a fixed value, and keys that it ignores."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_QWEN = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
}
_VARIANTS = {
    "llama": _Variant(ignored=_WINDOWS),
    "mistral": _Variant(
        {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
        {"use_sliding_window": True, "max_window_layers": 0},
        ("attention_bias", "mlp_bias", "layer_types"),
    ),
    "qwen2": _Variant(_QWEN, {"attention_bias": True}, ("mlp_bias",)),
    "qwen3": _Variant({**_QWEN, "head_dim": 128}, {}, ("mlp_bias",)),
}


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    decoder.require_plain_code(config)
    variant = _VARIANTS[config["model_type"]]
    stated = {key: value for key, value in config.items() if key not in variant.ignored}
    read = pick(Config, {**variant.defaults, **stated, **variant.fixed})
    check_sizes(read, unchecked=("sliding_window", "max_window_layers"))
    _decoder(read)
    return read


def positions(config: Config) -> int | None:
    """Number of tokens that the rotary positions reach."""
    return decoder.reach(_rope_parameters(config), config.max_position_embeddings)


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    return decoder.build(scope, _decoder(config))


def _rope_parameters(config: Config) -> dict[str, Any]:
    return {"partial_rotary_factor": config.partial_rotary_factor, **(config.rope_scaling or config.rope_parameters)}


def _decoder(config: Config) -> Decoder:
    head_size = config.head_dim or config.hidden_size // config.num_attention_heads
    return decoder.check(
        Decoder(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads or config.num_attention_heads,
            head_size=head_size,
            inner_size=config.intermediate_size,
            activation=config.hidden_act,
            epsilon=config.rms_norm_eps,
            layers=tuple(_layers(config)),
            query_scale=head_size**-0.5,
            input_bias=config.attention_bias,
            output_bias=config.attention_bias and config.model_type != "qwen2",
            inner_bias=config.mlp_bias,
            head_norms=config.model_type == "qwen3",
        )
    )


def _layers(config: Config) -> list[DecoderLayer]:
    rope = decoder.read_positions(
        _rope_parameters(config),
        "config.json.rope_scaling" if config.rope_scaling else "config.json.rope_parameters",
        theta=config.rope_theta,
        longest=config.max_position_embeddings,
        trained=config.original_max_position_embeddings,
    )
    window = config.sliding_window if config.use_sliding_window else None
    default = tuple(
        "sliding_attention" if window is not None and i >= config.max_window_layers else "full_attention"
        for i in range(config.num_hidden_layers)
    )
    types = decoder.layer_types(config.layer_types, default)
    if window is None and "sliding_attention" in types:
        raise UnsupportedModelError(
            "config.json: layer_types has 'sliding_attention', but there is no sliding_window, or use_sliding_window "
            "is false"
        )
    windows = {"full_attention": None, "sliding_attention": window}
    return [DecoderLayer(decoder.attention_window(windows[kind], causal=config.is_causal), rope) for kind in types]


FAMILY = Family(
    read_config=read_config,
    prefixes=decoder.PREFIXES,
    backbone=decoder.BACKBONE,
    positions=positions,
    build=build,
    ignored=decoder.IGNORED,
)

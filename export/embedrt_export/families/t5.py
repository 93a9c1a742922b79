"""The encoder of T5 and mT5: relative position biases, RMS norms, unscaled attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import AttentionBias, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.relative import bucket_bias
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

_DEFAULTS: dict[str, dict[str, Any]] = {
    "t5": {},
    "mt5": {"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"},
}


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers for T5.

    `dense_act_fn` and `is_gated_act` follow from `feed_forward_proj` where they are missing.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    is_decoder: Literal[False] = False

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.d_model

    @property
    def gated(self) -> bool:
        """True if a gate goes before the feed-forward's output."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def hidden_act(self) -> str:
        """The activation of the feed-forward; "gated-gelu" means the approximation with tanh."""
        given = "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")
        return self.dense_act_fn or given


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error."""
    read = pick(Config, {**_DEFAULTS[config["model_type"]], **config})
    check_sizes(read, unchecked=("relative_attention_num_buckets", "relative_attention_max_distance"))
    buckets, farthest = read.relative_attention_num_buckets, read.relative_attention_max_distance
    if buckets < 4 or farthest <= buckets // 4:
        raise UnsupportedModelError(
            f"config.json: relative_attention_num_buckets {buckets} with relative_attention_max_distance {farthest}: "
            "expected 4 or more buckets, and a distance beyond a quarter of them"
        )
    return read


def positions(config: Config) -> int | None:
    """Relative position biases have no limit."""
    del config
    return None


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer.

    The final norm is applied to the last of them.
    """
    hidden, epsilon = config.d_model, config.layer_norm_epsilon
    x = scope.op("Gather", scope.add("shared.weight", _words(scope, config)), scope.inputs.input_ids)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    table = scope.read(f"{name}.weight", config.relative_attention_num_buckets, config.num_heads)
    by_offset = bucket_bias(scope, table, name, config.relative_attention_max_distance)
    bias = attention_bias(scope, relative=by_offset)
    states = [scope.flatten(x, hidden)]
    for i in range(config.num_layers):
        layer, x = scope.at(f"encoder.block.{i}.layer"), states[-1]
        inside = layer.rms_norm(x, "0.layer_norm", hidden, epsilon)
        x = scope.op("Add", x, _attention(layer.at("0.SelfAttention"), inside, bias, config))
        inside = layer.rms_norm(x, "1.layer_norm", hidden, epsilon)
        states.append(scope.op("Add", x, _feed_forward(layer.at("1.DenseReluDense"), inside, config)))
    states[-1] = scope.rms_norm(states[-1], "encoder.final_layer_norm", hidden, epsilon)
    return states


def _words(scope: Scope, config: Config) -> NDArray[np.float32]:
    """Read the word embeddings, which repos store under one name or both."""
    names = [name for name in ("shared.weight", "encoder.embed_tokens.weight") if scope.has(name)] or ["shared.weight"]
    tables = [scope.read(name, config.vocab_size, config.d_model) for name in names]
    if not all(np.array_equal(tables[0], table) for table in tables):
        raise ExportError(f"weights: {' and '.join(names)} differ; they are one table in this architecture")
    return tables[0]


def _attention(scope: Scope, x: str, bias: AttentionBias, config: Config) -> str:
    hidden, heads, size = config.d_model, config.num_heads, config.d_kv
    query, key, value = (
        split_heads(scope, scope.linear(x, name, hidden, heads * size, bias=False), heads, size)
        for name in ("q", "k", "v")
    )
    attended = attend(scope, query, key, value, bias, Heads(heads, size))
    return scope.linear(attended, "o", heads * size, hidden, bias=False)


def _feed_forward(scope: Scope, x: str, config: Config) -> str:
    hidden, inner = config.d_model, config.d_ff
    first = scope.linear(x, "wi_0" if config.gated else "wi", hidden, inner, bias=False)
    inside = scope.activation(config.hidden_act, first)
    if config.gated:
        inside = scope.op("Mul", inside, scope.linear(x, "wi_1", hidden, inner, bias=False))
    return scope.linear(inside, "wo", inner, hidden, bias=False)


FAMILY = Family(
    read_config=read_config,
    backbone=("shared.", "encoder."),
    positions=positions,
    build=build,
    ignored=(r"encoder\.embed_tokens\.weight",),
)

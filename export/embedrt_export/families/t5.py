"""The encoder of T5 and mT5: a bias by bucket of the offset instead of positions, RMS norms, unscaled attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attend, attention_bias, split_heads
from embedrt_export.layers.linear import TextInputs, activation, flatten, linear, rms_norm
from embedrt_export.layers.relative import bucket_bias
from embedrt_export.source.configs import check_positive, pick
from embedrt_export.source.weights import Weights

_DEFAULTS: dict[str, dict[str, Any]] = {
    "t5": {},
    "mt5": {"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"},
}


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers for T5.

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
        """Whether a gate goes before the feed-forward's output."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def hidden_act(self) -> str:
        """The activation of the feed-forward; "gated-gelu" means the approximation with tanh."""
        given = "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")
        return self.dense_act_fn or given


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json, refusing variants that the graph does not have."""
    read = pick(Config, {**_DEFAULTS[config["model_type"]], **config})
    check_positive(read, "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    buckets, farthest = read.relative_attention_num_buckets, read.relative_attention_max_distance
    if buckets < 4 or farthest <= buckets // 4:
        raise UnsupportedModelError(
            f"config.json: relative_attention_num_buckets {buckets} with relative_attention_max_distance {farthest}: "
            "expected 4 or more buckets, and a distance beyond a quarter of them"
        )
    return read


def positions(config: Config) -> int | None:
    """There is no limit."""
    del config
    return None


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer.

    The last ones are those after the final norm.
    """
    hidden, epsilon = config.d_model, config.layer_norm_epsilon
    x = graph.op("Gather", graph.weight("shared.weight", _words(config, weights)), inputs.input_ids)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    table = weights(f"{name}.weight", config.relative_attention_num_buckets, config.num_heads)
    by_offset = bucket_bias(graph, table, name, inputs, config.relative_attention_max_distance)
    bias = graph.op("Add", by_offset, attention_bias(graph, inputs))
    states = [flatten(graph, x, hidden)]
    for i in range(config.num_layers):
        layer = f"encoder.block.{i}.layer"
        inside = rms_norm(graph, weights, states[-1], f"{layer}.0.layer_norm", hidden, epsilon)
        inside = _attention(graph, config, weights, inside, bias, inputs, f"{layer}.0.SelfAttention")
        x = graph.op("Add", states[-1], inside)
        inside = rms_norm(graph, weights, x, f"{layer}.1.layer_norm", hidden, epsilon)
        inside = _feed_forward(graph, config, weights, inside, f"{layer}.1.DenseReluDense")
        states.append(graph.op("Add", x, inside))
    states[-1] = rms_norm(graph, weights, states[-1], "encoder.final_layer_norm", hidden, epsilon)
    return states


def _words(config: Config, weights: Weights) -> Any:
    """The word embeddings, which repos store under one name or both."""
    names = [name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in weights] or ["shared.weight"]
    tables = [weights(name, config.vocab_size, config.d_model) for name in names]
    if not all(np.array_equal(tables[0], table) for table in tables):
        raise ExportError(f"weights: {' and '.join(names)} differ; they are one table in this architecture")
    return tables[0]


def _attention(
    graph: GraphBuilder, config: Config, weights: Weights, x: str, bias: str, inputs: TextInputs, name: str
) -> str:
    hidden, heads, size = config.d_model, config.num_heads, config.d_kv
    query, key, value = (
        split_heads(
            graph, linear(graph, weights, x, f"{name}.{part}", hidden, heads * size, bias=False), inputs, heads, size
        )
        for part in ("q", "k", "v")
    )
    attended = attend(graph, query, key, value, bias, heads=heads, size=size)
    return linear(graph, weights, attended, f"{name}.o", heads * size, hidden, bias=False)


def _feed_forward(graph: GraphBuilder, config: Config, weights: Weights, x: str, name: str) -> str:
    hidden, inner = config.d_model, config.d_ff
    first = f"{name}.wi_0" if config.gated else f"{name}.wi"
    inside = activation(graph, config.hidden_act, linear(graph, weights, x, first, hidden, inner, bias=False))
    if config.gated:
        inside = graph.op("Mul", inside, linear(graph, weights, x, f"{name}.wi_1", hidden, inner, bias=False))
    return linear(graph, weights, inside, f"{name}.wo", inner, hidden, bias=False)

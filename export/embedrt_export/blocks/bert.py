"""The encoder layer of BERT and its descendants: attention and feed-forward, each added to its input.

The sum is normalized, as in BERT, or the input, as in later models.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attend, split_heads
from embedrt_export.layers.linear import TextInputs, activation, layer_norm, linear
from embedrt_export.source.weights import Weights


class EncoderConfig(Protocol):
    """What a layer needs of a family's config."""

    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def num_attention_heads(self) -> int: ...  # noqa: D102
    @property
    def intermediate_size(self) -> int: ...  # noqa: D102
    @property
    def hidden_act(self) -> str: ...  # noqa: D102
    @property
    def layer_norm_eps(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class LayerNames:
    """How a family names the parameters of one layer, below the layer's own name."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    feed_forward_input: str = "intermediate.dense"
    feed_forward_output: str = "output.dense"
    output_norm: str = "output.LayerNorm"


def check_sizes(config: Any) -> None:
    """Checks the sizes in a family's config, which has those of an `EncoderConfig` among others.

    Raises:
        UnsupportedModelError: No model has such sizes; the message names the key.
    """
    for name, value in dataclasses.asdict(config).items():
        lowest = 0 if name.endswith("_id") else 1
        if type(value) is int and value < lowest:
            wanted = "an id" if lowest == 0 else "a positive integer"
            raise UnsupportedModelError(f"config.json.{name}: expected {wanted}, got {value}")
    if config.hidden_size % config.num_attention_heads:
        raise UnsupportedModelError(
            f"config.json: hidden_size {config.hidden_size} is not a multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )


def encoder_layer(
    graph: GraphBuilder,
    config: EncoderConfig,
    weights: Weights,
    x: str,
    bias: str,
    inputs: TextInputs,
    layer: str,
    names: LayerNames,
) -> str:
    """Adds one layer to the hidden states `x` `[tokens, hidden]`.

    Args:
        graph: The graph.
        config: Sizes and activation.
        weights: The model's tensors.
        x: Hidden states `[tokens, hidden]`.
        bias: Added to the attention scores.
        inputs: The graph's inputs.
        layer: Prefix of the layer's tensors, such as "encoder.layer.0".
        names: How the family names them.

    Returns:
        Hidden states `[tokens, hidden]`.
    """
    attended = self_attention(graph, config, weights, x, bias, inputs, layer, names)
    return post_norm(graph, config, weights, x, attended, layer, names)


def self_attention(
    graph: GraphBuilder,
    config: EncoderConfig,
    weights: Weights,
    x: str,
    bias: str,
    inputs: TextInputs,
    layer: str,
    names: LayerNames,
) -> str:
    """Attention of a layer and the linear layer after it, of `x` `[tokens, hidden]`; arguments of `encoder_layer`."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    query = linear(graph, weights, x, f"{layer}.{names.query}", hidden, hidden, scale=size**-0.5)
    key = linear(graph, weights, x, f"{layer}.{names.key}", hidden, hidden)
    value = linear(graph, weights, x, f"{layer}.{names.value}", hidden, hidden)
    query, key, value = (split_heads(graph, part, inputs, heads, size) for part in (query, key, value))
    attended = attend(graph, query, key, value, bias, heads=heads, size=size)
    return linear(graph, weights, attended, f"{layer}.{names.attention_output}", hidden, hidden)


def feed_forward(
    graph: GraphBuilder, config: EncoderConfig, weights: Weights, x: str, layer: str, names: LayerNames
) -> str:
    """The two linear layers of a layer with the activation between, of `x` `[tokens, hidden]`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    inside = linear(graph, weights, x, f"{layer}.{names.feed_forward_input}", hidden, inner)
    inside = activation(graph, config.hidden_act, inside)
    return linear(graph, weights, inside, f"{layer}.{names.feed_forward_output}", inner, hidden)


def post_norm(
    graph: GraphBuilder, config: EncoderConfig, weights: Weights, x: str, attended: str, layer: str, names: LayerNames
) -> str:
    """The rest of a layer after its attention: each part is added to its input and the sum is normalized."""
    hidden, epsilon = config.hidden_size, config.layer_norm_eps
    x = graph.op("Add", attended, x)
    x = layer_norm(graph, weights, x, f"{layer}.{names.attention_norm}", hidden, epsilon)
    x = graph.op("Add", feed_forward(graph, config, weights, x, layer, names), x)
    return layer_norm(graph, weights, x, f"{layer}.{names.output_norm}", hidden, epsilon)


def pre_norm_layer(
    graph: GraphBuilder,
    config: EncoderConfig,
    weights: Weights,
    x: str,
    bias: str,
    inputs: TextInputs,
    layer: str,
    names: LayerNames,
) -> str:
    """Like `encoder_layer`, but each part gets its input normalized, and the sum is left as it is."""
    hidden, epsilon = config.hidden_size, config.layer_norm_eps
    normed = layer_norm(graph, weights, x, f"{layer}.{names.attention_norm}", hidden, epsilon)
    x = graph.op("Add", self_attention(graph, config, weights, normed, bias, inputs, layer, names), x)
    normed = layer_norm(graph, weights, x, f"{layer}.{names.output_norm}", hidden, epsilon)
    return graph.op("Add", feed_forward(graph, config, weights, normed, layer, names), x)

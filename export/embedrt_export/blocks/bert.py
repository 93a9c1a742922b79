"""The encoder layer of BERT and its descendants: attention and feed-forward, each added to its input.

The sum is normalized, as in BERT, or the input, as in later models.
"""

from dataclasses import dataclass
from typing import Protocol

from embedrt_export.layers.attention import AttentionBias, Heads, attend, split_heads
from embedrt_export.layers.scope import Scope


class EncoderConfig(Protocol):
    """Keys of a family's config that a layer reads."""

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
    """A family's names of the parameters of one layer, below the layer's own name."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    feed_forward_input: str = "intermediate.dense"
    feed_forward_output: str = "output.dense"
    output_norm: str = "output.LayerNorm"


def encoder_layer(scope: Scope, x: str, bias: AttentionBias, config: EncoderConfig, names: LayerNames) -> str:
    """Add one post-norm layer.

    Args:
        scope: The layer, such as "encoder.layer.0".
        x: Hidden states `[tokens, hidden]`.
        bias: Added to the attention scores.
        config: Sizes and activation.
        names: The family's names of the layer's parameters.

    Returns:
        Hidden states `[tokens, hidden]`.
    """
    return post_norm(scope, x, self_attention(scope, x, bias, config, names), config, names)


def pre_norm_layer(scope: Scope, x: str, bias: AttentionBias, config: EncoderConfig, names: LayerNames) -> str:
    """Add one pre-norm layer: the input of each part is normalized, and the sum is not."""
    hidden, epsilon = config.hidden_size, config.layer_norm_eps
    normed = scope.layer_norm(x, names.attention_norm, hidden, epsilon)
    x = scope.op("Add", self_attention(scope, normed, bias, config, names), x)
    normed = scope.layer_norm(x, names.output_norm, hidden, epsilon)
    return scope.op("Add", feed_forward(scope, normed, config, names), x)


def self_attention(scope: Scope, x: str, bias: AttentionBias, config: EncoderConfig, names: LayerNames) -> str:
    """Add attention and the linear layer after it, for `x` `[tokens, hidden]`."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    query = scope.linear(x, names.query, hidden, hidden, scale=size**-0.5)
    key = scope.linear(x, names.key, hidden, hidden)
    value = scope.linear(x, names.value, hidden, hidden)
    query, key, value = (split_heads(scope, part, heads, size) for part in (query, key, value))
    attended = attend(scope, query, key, value, bias, Heads(heads, size))
    return scope.linear(attended, names.attention_output, hidden, hidden)


def feed_forward(scope: Scope, x: str, config: EncoderConfig, names: LayerNames) -> str:
    """Add the two linear layers of a feed-forward and the activation between them, for `x` `[tokens, hidden]`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    inside = scope.linear(x, names.feed_forward_input, hidden, inner)
    inside = scope.activation(config.hidden_act, inside)
    return scope.linear(inside, names.feed_forward_output, inner, hidden)


def post_norm(scope: Scope, x: str, attended: str, config: EncoderConfig, names: LayerNames) -> str:
    """Add the rest of a layer after its attention: each part is added to its input and the sum is normalized."""
    hidden, epsilon = config.hidden_size, config.layer_norm_eps
    x = scope.op("Add", attended, x)
    x = scope.layer_norm(x, names.attention_norm, hidden, epsilon)
    x = scope.op("Add", feed_forward(scope, x, config, names), x)
    return scope.layer_norm(x, names.output_norm, hidden, epsilon)

"""Pieces that the architecture families share.

Hidden states are `[tokens, hidden]` with `tokens = batch x sequence`: so every linear layer is one Gemm with its bias
inside, which took 2 % less time than MatMul and Add over three dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph import BOOL, GraphBuilder
from embedrt_export.weights import Weights

# Added to the attention scores of padding. Finite, so that a row of nothing but padding gives no NaN.
MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class TextInputs:
    """The graph's inputs and what is derived of them once.

    Attributes:
        input_ids: int64 `[batch, sequence]`.
        attention_mask: int64 `[batch, sequence]`, 1 for tokens and 0 for padding.
        token_type_ids: int64 `[batch, sequence]`, or None where all are 0.
        shape: int64 `[2]`: batch and sequence.
        sequence: int64 `[1]`.
    """

    input_ids: str
    attention_mask: str
    token_type_ids: str | None
    shape: str
    sequence: str


def text_inputs(graph: GraphBuilder, *, token_type_ids: bool) -> TextInputs:
    """Declares the inputs."""
    input_ids = graph.input("input_ids")
    attention_mask = graph.input("attention_mask")
    types = graph.input("token_type_ids") if token_type_ids else None
    shape = graph.op("Shape", input_ids)
    sequence = graph.op("Slice", shape, graph.ints(1), graph.ints(2))
    return TextInputs(input_ids, attention_mask, types, shape, sequence)


def flatten(graph: GraphBuilder, value: str, width: int) -> str:
    """`[batch, sequence, width]` to `[tokens, width]`."""
    return graph.op("Reshape", value, graph.ints(-1, width))


def unflatten(graph: GraphBuilder, value: str, shape: str, *width: int) -> str:
    """`[tokens, ...]` to `[batch, sequence, *width]`."""
    return graph.op("Reshape", value, graph.op("Concat", shape, graph.ints(*width), axis=0))


def linear(
    graph: GraphBuilder, weights: Weights, x: str, name: str, inputs: int, outputs: int, scale: float = 1.0
) -> str:
    """`(x @ weight.T + bias) * scale`, with the parameters `NAME.weight` `[outputs, inputs]` and `NAME.bias`."""
    weight, bias = weights(f"{name}.weight", outputs, inputs), weights(f"{name}.bias", outputs)
    if scale != 1.0:
        weight, bias = weight * np.float32(scale), bias * np.float32(scale)
    return graph.op("Gemm", x, graph.weight(f"{name}.weight", weight), graph.weight(f"{name}.bias", bias), transB=1)


def layer_norm(graph: GraphBuilder, weights: Weights, x: str, name: str, width: int, epsilon: float) -> str:
    """Layer normalization over the last axis, with the parameters `NAME.weight` and `NAME.bias`."""
    scale = graph.weight(f"{name}.weight", weights(f"{name}.weight", width))
    bias = graph.weight(f"{name}.bias", weights(f"{name}.bias", width))
    return graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def padding_bias(graph: GraphBuilder, attention_mask: str) -> str:
    """What to add to attention scores so that padding gets no weight: float32 `[batch, 1, 1, sequence]`."""
    is_token = graph.op("Cast", attention_mask, to=BOOL)
    is_token = graph.op("Unsqueeze", is_token, graph.ints(1, 2))
    return graph.op("Where", is_token, graph.scalar(0.0), graph.scalar(MASKED))


def attention(
    graph: GraphBuilder, query: str, key: str, value: str, bias: str, shape: str, heads: int, size: int
) -> str:
    """Softmax attention with `heads` heads of `size`, from plain operators.

    Args:
        graph: The graph.
        query: `[tokens, heads x size]`, already divided by the root of `size`.
        key: `[tokens, heads x size]`.
        value: `[tokens, heads x size]`.
        bias: Added to the scores; broadcasts to `[batch, heads, sequence, sequence]`.
        shape: int64 `[2]`: batch and sequence.
        heads: Number of heads.
        size: Width of one head.

    Returns:
        `[tokens, heads x size]`.
    """
    split = graph.op("Concat", shape, graph.ints(heads, size), axis=0)
    by_head = [graph.op("Reshape", x, split) for x in (query, key, value)]
    q = graph.op("Transpose", by_head[0], perm=[0, 2, 1, 3])
    k = graph.op("Transpose", by_head[1], perm=[0, 2, 3, 1])
    v = graph.op("Transpose", by_head[2], perm=[0, 2, 1, 3])
    scores = graph.op("Softmax", graph.op("Add", graph.op("MatMul", q, k), bias), axis=-1)
    context = graph.op("Transpose", graph.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    return graph.op("Reshape", context, graph.ints(-1, heads * size))


def activation(graph: GraphBuilder, name: str, x: str) -> str:
    """An activation by the name that configs use (`hidden_act`).

    Raises:
        UnsupportedModelError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"config.json: hidden_act {name!r} is unknown; known: {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name](graph, x)


Activation = Callable[[GraphBuilder, str], str]


def _gelu(graph: GraphBuilder, x: str) -> str:
    """`x * Phi(x)`, with the error function."""
    return graph.op("Gelu", x)


def _gelu_tanh(graph: GraphBuilder, x: str) -> str:
    """The approximation with tanh: `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`."""
    return graph.op("Gelu", x, approximate="tanh")


def _quick_gelu(graph: GraphBuilder, x: str) -> str:
    """`x * sigmoid(1.702 * x)`."""
    return graph.op("Mul", x, graph.op("Sigmoid", graph.op("Mul", x, graph.scalar(1.702))))


def _clipped_gelu(graph: GraphBuilder, x: str) -> str:
    """GELU, cut to [-10, 10]."""
    return graph.op("Clip", _gelu(graph, x), graph.scalar(-10.0), graph.scalar(10.0))


def _silu(graph: GraphBuilder, x: str) -> str:
    """`x * sigmoid(x)`."""
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _squared_relu(graph: GraphBuilder, x: str) -> str:
    """`max(x, 0)^2`."""
    positive = graph.op("Relu", x)
    return graph.op("Mul", positive, positive)


def _relu6(graph: GraphBuilder, x: str) -> str:
    """`min(max(x, 0), 6)`."""
    return graph.op("Clip", x, graph.scalar(0.0), graph.scalar(6.0))


def _laplace(graph: GraphBuilder, x: str) -> str:
    """`(1 + erf((x - mu) / (sigma * sqrt(2)))) / 2` with mu = 0.707107 and sigma = 0.282095."""
    scaled = graph.op("Div", graph.op("Sub", x, graph.scalar(0.707107)), graph.scalar(0.282095 * 2**0.5))
    return graph.op("Mul", graph.op("Add", graph.op("Erf", scaled), graph.scalar(1.0)), graph.scalar(0.5))


ACTIVATIONS: dict[str, Activation] = {
    "gelu": _gelu,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": lambda graph, x: graph.op("HardSwish", x),
    "laplace": _laplace,
    "leaky_relu": lambda graph, x: graph.op("LeakyRelu", x, alpha=0.01),
    "linear": lambda _, x: x,
    "mish": lambda graph, x: graph.op("Mish", x),
    "quick_gelu": _quick_gelu,
    "relu": lambda graph, x: graph.op("Relu", x),
    "relu2": _squared_relu,
    "relu6": _relu6,
    "sigmoid": lambda graph, x: graph.op("Sigmoid", x),
    "silu": _silu,
    "swish": _silu,
    "tanh": lambda graph, x: graph.op("Tanh", x),
}

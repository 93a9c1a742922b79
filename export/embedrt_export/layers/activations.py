"""Activation functions, by the names that configs use."""

from collections.abc import Callable

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import GraphBuilder


def activation(graph: GraphBuilder, name: str, x: str) -> str:
    """Add an activation by the name that configs use (`hidden_act`).

    Raises:
        UnsupportedModelError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"config.json: hidden_act {name!r} is not supported; supported: {', '.join(sorted(ACTIVATIONS))}"
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
    """GELU, clipped to [-10, 10]."""
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

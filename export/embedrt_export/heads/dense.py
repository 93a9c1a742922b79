"""Activations of a Dense module, by the name of torch's class."""

from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.activations import ACTIVATIONS, Activation


def _softplus(graph: GraphBuilder, x: str) -> str:
    """`log(1 + exp(x))`, and `x` itself above 20, as torch has it."""
    return graph.op("Where", graph.op("Greater", x, graph.scalar(20.0)), x, graph.op("Softplus", x))


DENSE_ACTIVATIONS: dict[str, Activation] = {
    "CELU": lambda graph, x: graph.op("Celu", x, alpha=1.0),
    "ELU": lambda graph, x: graph.op("Elu", x, alpha=1.0),
    "GELU": ACTIVATIONS["gelu"],
    "Hardshrink": lambda graph, x: graph.op("Shrink", x, lambd=0.5, bias=0.0),
    "Hardsigmoid": lambda graph, x: graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "Hardswish": lambda graph, x: graph.op("HardSwish", x),
    "Hardtanh": lambda graph, x: graph.op("Clip", x, graph.scalar(-1.0), graph.scalar(1.0)),
    "Identity": ACTIVATIONS["linear"],
    "LeakyReLU": ACTIVATIONS["leaky_relu"],
    "LogSigmoid": lambda graph, x: graph.op("Neg", _softplus(graph, graph.op("Neg", x))),
    "Mish": ACTIVATIONS["mish"],
    "ReLU": ACTIVATIONS["relu"],
    "ReLU6": ACTIVATIONS["relu6"],
    "SELU": lambda graph, x: graph.op("Selu", x),
    "SiLU": ACTIVATIONS["silu"],
    "Sigmoid": ACTIVATIONS["sigmoid"],
    "Softplus": _softplus,
    "Softshrink": lambda graph, x: graph.op("Shrink", x, lambd=0.5, bias=0.5),
    "Softsign": lambda graph, x: graph.op("Softsign", x),
    "Tanh": ACTIVATIONS["tanh"],
    "Tanhshrink": lambda graph, x: graph.op("Sub", x, graph.op("Tanh", x)),
}
"""The activations of a Dense module, by the name of torch's class with its default arguments."""

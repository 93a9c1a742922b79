"""Dense module: a linear layer with an activation."""

from dataclasses import dataclass
from pathlib import Path

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import SENTENCE
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.heads.head import Feature, Head, HeadInputs, HeadOutputs, config_name, feature_name
from embedrt_export.layers.activations import ACTIVATIONS, Activation
from embedrt_export.layers.inputs import flatten, unflatten
from embedrt_export.layers.linear import Linear, project
from embedrt_export.source.configs import read_config, strict
from embedrt_export.source.weights import Weights


@dataclass(frozen=True)
class Dense:
    """Settings of a Dense module; the activation is the name of torch's class."""

    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "Tanh"
    module_input_name: str = SENTENCE
    module_output_name: str | None = None
    use_residual: bool = False


def _softplus(graph: GraphBuilder, x: str) -> str:
    """`log(1 + exp(x))`, and `x` itself above 20, as in torch."""
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
"""Activations by the name of torch's class, with its default arguments."""


def read(folder: Path) -> Dense:
    """Read the module's config."""
    where, content = config_name(folder), read_config(folder / "config.json")
    name = content.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str):
        raise ExportError(f"{where}: activation_function: expected the name of a class, got {name!r}")
    # sentence-transformers loads no class from outside torch, and uses Tanh instead.
    short = name.rpartition(".")[2] if name.startswith("torch.") else "Tanh"
    if short not in DENSE_ACTIVATIONS:
        raise UnsupportedModelError(
            f"{where}: activation_function {name!r} is not supported; supported: {', '.join(DENSE_ACTIVATIONS)}"
        )
    return strict(Dense, {**content, "activation_function": short}, where)


def add(inputs: HeadInputs, settings: Dense) -> HeadOutputs:
    """Add the layer, for a sentence embedding or for every token."""
    graph, x = inputs.graph, inputs.feature(feature_name(settings.module_input_name))
    inputs.require_width(settings.in_features, x.width)
    sizes = settings.out_features, settings.in_features
    flat = flatten(graph, x.value, x.width) if x.per_token else x.value
    with Weights(inputs.folder) as weights:
        bias = weights("linear.bias", settings.out_features) if settings.bias else None
        y = project(graph, flat, f"{inputs.path}.linear", Linear(weights("linear.weight", *sizes), bias))
        y = DENSE_ACTIVATIONS[settings.activation_function](graph, y)
        if settings.use_residual:
            if settings.in_features != settings.out_features:
                flat = project(graph, flat, f"{inputs.path}.residual", Linear(weights("residual.weight", *sizes)))
            y = graph.op("Add", y, flat)
        digest = weights.digest()
    if x.per_token:
        y = unflatten(graph, y, inputs.shape, settings.out_features)
    name = feature_name(settings.module_output_name or settings.module_input_name)
    return HeadOutputs({name: Feature(y, settings.out_features, x.per_token)}, digest)


HEAD = Head(read, add)

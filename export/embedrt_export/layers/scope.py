"""Layers by the names of their parameters in a model's files."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.activations import activation
from embedrt_export.layers.inputs import TextInputs, flatten, unflatten
from embedrt_export.layers.linear import Linear, project
from embedrt_export.layers.norms import layer_norm, rms_norm


class Parameters(Protocol):
    """Tensors of a model by name, such as `source.weights.Weights`."""

    def __call__(self, name: str, *shape: int) -> NDArray[np.float32]: ...  # noqa: D102
    def __contains__(self, name: str) -> bool: ...


@dataclass(frozen=True)
class Scope:
    """A graph, the model's weights, the graph's inputs, and the prefix of the parameters in use.

    Attributes:
        graph: The graph that layers are added to.
        weights: The model's tensors.
        inputs: The graph's inputs.
        prefix: Prefix of every name, such as "encoder.layer.0"; empty for the whole model.
    """

    graph: GraphBuilder
    weights: Parameters
    inputs: TextInputs
    prefix: str = ""

    def at(self, name: str) -> "Scope":
        """Enter a submodule: `scope.at("encoder.layer.0")`."""
        return replace(self, prefix=self.name(name))

    def name(self, name: str) -> str:
        """Name of a parameter or submodule in the whole model."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def op(self, op_type: str, *values: str, **attributes: Any) -> str:
        """Add a standard operator with one output; returns the output's name."""
        return self.graph.op(op_type, *values, **attributes)

    def has(self, name: str) -> bool:
        """True if the model has a tensor of this name."""
        return self.name(name) in self.weights

    def read(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Read a tensor of the model."""
        return self.weights(self.name(name), *shape)

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Add an array to the graph as a tensor; returns its name in the graph."""
        return self.graph.weight(self.name(name), values)

    def parameter(self, name: str, *shape: int, scale: float = 1.0) -> str:
        """Add a tensor of the model, times `scale`, to the graph. Layers may share it: it is read once."""

        def read() -> str:
            values = self.read(name, *shape)
            return self.add(name, values if scale == 1.0 else values * np.float32(scale))

        return self.graph.once((self.weights, self.name(name), scale), read)

    def read_linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """Read weight and bias of a linear layer, to change them before they are added."""
        return Linear(
            self.read(f"{name}.weight", outputs, inputs), self.read(f"{name}.bias", outputs) if bias else None
        )

    def linear(self, x: str, name: str, inputs: int, outputs: int, *, bias: bool = True, scale: float = 1.0) -> str:
        """Add `(x @ weight.T + bias) * scale` with the parameters `NAME.weight` `[outputs, inputs]` and `NAME.bias`."""
        parameters = [self.parameter(f"{name}.weight", outputs, inputs, scale=scale)]
        if bias:
            parameters.append(self.parameter(f"{name}.bias", outputs, scale=scale))
        return self.op("Gemm", x, *parameters, transB=1)

    def project(self, x: str, name: str, layer: Linear) -> str:
        """Add a linear layer from arrays, under the names `NAME.weight` and `NAME.bias`."""
        return project(self.graph, x, self.name(name), layer)

    def layer_norm(self, x: str, name: str, width: int, epsilon: float, *, bias: bool = True) -> str:
        """Add layer normalization with the parameters `NAME.weight` and `NAME.bias`."""
        parts = ("weight", "bias") if bias else ("weight",)
        return layer_norm(self.graph, x, epsilon, *(self.parameter(f"{name}.{part}", width) for part in parts))

    def rms_norm(
        self, x: str, name: str, width: int, epsilon: float, *, offset: float = 0.0, scale: float = 1.0
    ) -> str:
        """Add RMS normalization that multiplies by `(offset + NAME.weight) * scale`."""
        weight = (self.read(f"{name}.weight", width) + np.float32(offset)) * np.float32(scale)
        return rms_norm(self.graph, x, self.name(f"{name}.weight"), weight, epsilon)

    def activation(self, name: str, x: str) -> str:
        """Add an activation by the name that configs use."""
        return activation(self.graph, name, x)

    def flatten(self, x: str, width: int) -> str:
        """Reshape `[batch, sequence, width]` to `[tokens, width]`."""
        return flatten(self.graph, x, width)

    def unflatten(self, x: str, *width: int) -> str:
        """Reshape `[tokens, ...]` to `[batch, sequence, *width]`."""
        return unflatten(self.graph, x, self.inputs.shape, *width)

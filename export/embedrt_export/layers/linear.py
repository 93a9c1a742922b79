"""Linear layers from weight arrays."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedrt_export.graph.builder import GraphBuilder


class Linear(NamedTuple):
    """Weight `[outputs, inputs]` and bias `[outputs]` of a linear layer."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None

    def scaled(self, scale: float) -> "Linear":
        """Multiply the layer's output by `scale`."""
        if scale == 1.0:
            return self
        factor = np.float32(scale)
        return Linear(self.weight * factor, None if self.bias is None else self.bias * factor)

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Compute `x @ weight.T + bias`, for inputs that are known at export."""
        y: NDArray[Any] = x @ self.weight.T
        return y if self.bias is None else y + self.bias

    def unpack(self, parts: int) -> "list[Linear]":
        """Split into layers of equal size, which a repo stores as one, row after row."""
        biases = [None] * parts if self.bias is None else np.split(self.bias, parts)
        return [Linear(*part) for part in zip(np.split(self.weight, parts), biases, strict=True)]


def project(graph: GraphBuilder, x: str, name: str, layer: Linear) -> str:
    """Add `x @ weight.T + bias`, with `x` `[tokens, inputs]` and the parameters `NAME.weight` and `NAME.bias`."""
    parameters = [graph.weight(f"{name}.weight", layer.weight)]
    if layer.bias is not None:
        parameters.append(graph.weight(f"{name}.bias", layer.bias))
    return graph.op("Gemm", x, *parameters, transB=1)

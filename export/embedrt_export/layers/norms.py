"""Layer normalization and RMS normalization over the last axis."""

import numpy as np
from numpy.typing import NDArray

from embedrt_export.graph.builder import GraphBuilder


def layer_norm(graph: GraphBuilder, x: str, epsilon: float, weight: str, *bias: str) -> str:
    """Add layer normalization with parameters that are in the graph already."""
    return graph.op("LayerNormalization", x, weight, *bias, axis=-1, epsilon=epsilon)


def rms_norm(graph: GraphBuilder, x: str, name: str, weight: NDArray[np.float32], epsilon: float) -> str:
    """Add `x / sqrt(mean(x^2) + epsilon) * weight`, with the weight under `name`."""
    if graph.draft:  # one operator, as squares exceed the range of narrow dtypes
        return graph.draft_op("RMSNorm", x, graph.weight(name, weight), epsilon=epsilon)
    mean = graph.op("ReduceMean", graph.op("Mul", x, x), graph.ints(-1), keepdims=1)
    root = graph.op("Sqrt", graph.op("Add", mean, graph.scalar(epsilon)))
    return graph.op("Mul", graph.op("Div", x, root), graph.weight(name, weight))

"""Linear layers of a graph, and what they are quantized to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt_export.dtypes.int8.activations import Floats, Scheme

Constant = Callable[[str, Any], str]
"""Adds a tensor to the graph, and returns its name."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer in a graph, `x @ weight.T + bias` with constant weight.

    Attributes:
        node: Name of its node.
        x: Name of its input, float32 `[tokens, channels]`.
        weight: Name of its weight, `[outputs, channels]`.
        bias: Name of its bias `[outputs]`, or None.
        y: Name of its output.
    """

    node: str
    x: str
    weight: str
    bias: str | None
    y: str


@dataclass(frozen=True)
class QuantizedLayer:
    """A quantized linear layer.

    Attributes:
        scheme: Quantization scheme of its input.
        levels: Quantized weight, int8 `[channels, outputs]`.
        scales: Scale of each column of the weight, float32 `[outputs]`.
        bias: float32 `[outputs]`.
        outliers: Weight of the outlier channels, float32 `[outliers, outputs]`.
        error: Relative error of its outputs on the calibration texts.
    """

    scheme: Scheme
    levels: NDArray[np.int8]
    scales: Floats
    bias: Floats
    outliers: Floats
    error: float

"""Static quantization of activations, the inputs of linear layers: one scale and one zero point for all texts.

Outlier channels would make the scale too coarse. There are two remedies. Smoothing divides each channel by a factor
that is multiplied into the weights (SmoothQuant, arXiv:2211.10438, equation 4). If the input is wider than the
outputs, the excess of a few outlier channels over the range is computed in float32 instead: after an activation such
as GELU one channel of a thousand may be ten times as large as all others. The scheme with the smallest error is used.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedrt_export.dtypes.int8.levels import column_scales

Floats = NDArray[np.float32]

_LEVELS = 255
# Exponents of the activations in the smoothing factor; weights have 1 minus the exponent.
_SMOOTHINGS = (0.5, 0.6, 0.7, 0.8, 0.9)
_OUTLIERS = (8, 16, 32)
# Run time of each remedy, as a factor of the error.
_SMOOTHING_COST, _CHANNEL_COST = 1.1, 1 / 160
# Headroom of the range for other texts; without it, unusual texts lose a percent of cosine similarity and more.
_MARGIN = 1.1
# Tokens on which schemes are compared.
_COMPARED = 2048


@dataclass(frozen=True)
class Scheme:
    """Quantization scheme of one activation.

    Attributes:
        smoothing: Divisor of each channel, float32 `[channels]`, or None.
        low: Lower end of the range, at most 0.
        high: Upper end of the range, at least 0.
        outliers: Channels whose excess over the range is computed in float32, int64, ascending.
    """

    smoothing: Floats | None
    low: float
    high: float
    outliers: NDArray[np.int64]

    @property
    def scale(self) -> np.float32:
        """Step between two levels."""
        return np.float32((self.high - self.low) / _LEVELS)

    @property
    def zero_point(self) -> np.uint8:
        """Level of the value 0."""
        return np.uint8(np.clip(np.round(-self.low / self.scale), 0, _LEVELS))

    def smoothed(self, x: Floats) -> Floats:
        """Smooth values before quantization: `[tokens, channels]`."""
        return x if self.smoothing is None else x / self.smoothing

    def quantized(self, x: Floats) -> Floats:
        """Smooth, quantize and dequantize values: `[tokens, channels]`."""
        zero = np.float32(self.zero_point)
        levels = np.clip(np.round(self.smoothed(x) / self.scale) + zero, 0, _LEVELS)
        return np.asarray((levels - zero) * self.scale, np.float32)

    def excess(self, x: Floats) -> Floats:
        """Excess of the outlier channels over the range: `[tokens, outliers]`."""
        outliers = x[:, self.outliers]
        return outliers - np.clip(outliers, np.float32(self.low), np.float32(self.high))


def choose(x: Floats, weights: Sequence[Floats], largest_pair: int) -> Scheme:
    """Choose the scheme with the smallest error of the linear layers, weighted by its run time.

    Args:
        x: Calibration values of the activation, float32 `[tokens, channels]`.
        weights: Weights of the linear layers that read it, float32 `[channels, outputs]` each.
        largest_pair: Bound for pairs of levels; see `levels.largest_pair`.
    """
    sample = x[np.linspace(0, len(x) - 1, min(len(x), _COMPARED)).astype(np.int64)]
    exact = [sample @ weight for weight in weights]

    def error(scheme: Scheme) -> float:
        quantized, excess = scheme.quantized(sample), scheme.excess(sample)
        total = 0.0
        for weight, expected in zip(weights, exact, strict=True):
            smoothed = weight if scheme.smoothing is None else weight * scheme.smoothing[:, None]
            found = quantized @ _quantized(smoothed, largest_pair) + excess @ weight[scheme.outliers]
            total += float(((found - expected) ** 2).sum() / max(float((expected**2).sum()), 1e-30))
        return total

    costs = [(error(scheme) * cost, i, scheme) for i, (scheme, cost) in enumerate(_candidates(x, weights))]
    return min(costs)[2]


def _candidates(x: Floats, weights: Sequence[Floats]) -> Iterator[tuple[Scheme, float]]:
    """Schemes with their run time: the plain one, and either those with outliers or those with smoothing."""
    yield _scheme(x), 1.0
    if sum(weight.shape[1] for weight in weights) < x.shape[1]:
        largest = np.maximum(x.max(axis=0), -x.min(axis=0))
        for count in (count for count in _OUTLIERS if count < x.shape[1]):
            yield (
                _scheme(x, outliers=np.sort(np.argsort(-largest, kind="stable")[:count])),
                (1 + count * _CHANNEL_COST),
            )
        return
    for exponent in _SMOOTHINGS:
        yield _scheme(x, smoothing=_smoothing(x, weights, exponent)), _SMOOTHING_COST


def _scheme(x: Floats, smoothing: Floats | None = None, outliers: Iterable[int] = ()) -> Scheme:
    channels = np.array(list(outliers), np.int64)
    values = x if smoothing is None else x / smoothing
    inside = np.delete(values, channels, axis=1) if len(channels) else values
    low, high = (_MARGIN * float(edge) for edge in (min(0.0, inside.min()), max(0.0, inside.max())))
    if low == high:  # only zeros
        high = 1.0
    return Scheme(smoothing, low, high, channels)


def _smoothing(x: Floats, weights: Sequence[Floats], exponent: float) -> Floats:
    """Compute `max|x|^a / max|w|^(1 - a)` of each channel, with a geometric mean of 1."""
    activation = np.maximum(np.abs(x).max(axis=0), 1e-5).astype(np.float64)
    weight = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1e-5)
    logarithm = exponent * np.log(activation) - (1 - exponent) * np.log(weight)
    return np.asarray(np.exp(logarithm - logarithm.mean()), np.float32)


def _quantized(weight: Floats, largest_pair: int) -> Floats:
    """Quantize and dequantize weights, with a scale for each column."""
    scales = column_scales(weight, largest_pair)
    return np.asarray(np.round(weight / scales) * scales, np.float32)

"""Static quantization of activations, the inputs of linear layers: one scale and one zero point for all texts.

Outlier channels would make the scale too coarse. There are three remedies. Smoothing divides each channel by a factor
that is multiplied into the weights (SmoothQuant, arXiv:2211.10438, equation 4). Centering subtracts the middle of each
channel first, where that costs nothing. If the input is wider than the outputs, the excess of a few outlier channels
over the range is computed in float32 instead: after an activation such as GELU one channel of a thousand may be ten
times as large as all others. The scheme with the smallest error is used.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedrt_export.dtypes.int8.levels import column_scales

Floats = NDArray[np.float32]

_LEVELS = 255
# Exponents of the activations in the smoothing factor; weights have 1 minus the exponent.
_SMOOTHINGS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Pairs of channels that may exceed the range. Pairs can move to the front together, where a slice reads them, and the
# bound for pairs of weights stays.
_OUTLIER_PAIRS = (4, 8, 16, 32)
# Run time of each remedy, as a factor of the error.
_SMOOTHING_COST, _CHANNEL_COST = 1.1, 1 / 320
# Share of the error of weights rounded to the nearest level that GPTQ leaves.
_GPTQ_SHARE = 0.4
# Headroom of the range for other texts; without it, unusual texts lose a percent of cosine similarity and more. The
# range of a channel that is centered and smoothed is narrow, so more may be needed.
_MARGIN, _MARGINS = 1.1, (1.1, 1.3)
# Tokens on which schemes are compared, and the tokens in a row of which every other number makes the ranges.
_COMPARED, _RUN = 2048, 256


@dataclass(frozen=True)
class Scheme:
    """Quantization scheme of one activation.

    Attributes:
        center: Subtracted from each channel, float32 `[channels]`, or None.
        smoothing: Divisor of each channel, float32 `[channels]`, or None.
        low: Lower end of the range, at most 0.
        high: Upper end of the range, at least 0.
        outliers: Channels whose excess over the range is computed in float32, int64, ascending.
    """

    center: Floats | None
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
        """Center and smooth values before quantization: `[tokens, channels]`."""
        centered = x if self.center is None else x - self.center
        return centered if self.smoothing is None else centered / self.smoothing

    def quantized(self, x: Floats) -> Floats:
        """Smooth, quantize and dequantize values: `[tokens, channels]`."""
        zero = np.float32(self.zero_point)
        levels = np.clip(np.round(self.smoothed(x) / self.scale) + zero, 0, _LEVELS)
        return np.asarray((levels - zero) * self.scale, np.float32)

    def excess(self, x: Floats) -> Floats:
        """Excess of the outlier channels over the range: `[tokens, outliers]`."""
        outliers = x[:, self.outliers]
        return outliers - np.clip(outliers, np.float32(self.low), np.float32(self.high))


def choose(x: Floats, weights: Sequence[Floats], largest_pair: int, *, is_free: bool = False) -> Scheme:
    """Choose the scheme with the smallest error of the linear layers, weighted by its run time.

    Args:
        x: Calibration values of the activation, float32 `[tokens, channels]`.
        weights: Weights of the linear layers that read it, float32 `[channels, outputs]` each.
        largest_pair: Bound for pairs of levels; see `levels.largest_pair`.
        is_free: True if the node that computes the activation can center and smooth it.
    """
    # Ranges are compared on other tokens than they are from: texts that nobody has seen are beyond them.
    fitted, others = (x[np.arange(len(x)) // _RUN % 2 == parity] for parity in (0, 1))
    others = others if len(others) else fitted
    sample = others[np.linspace(0, len(others) - 1, min(len(others), _COMPARED)).astype(np.int64)]
    exact = [sample @ weight for weight in weights]

    def error(scheme: Scheme) -> float:
        quantized, excess = scheme.quantized(sample), scheme.excess(sample)
        total = 0.0
        for weight, expected in zip(weights, exact, strict=True):
            smoothed = weight if scheme.smoothing is None else weight * scheme.smoothing[:, None]
            rest = excess @ weight[scheme.outliers] - expected
            of_activation = _variation(quantized @ smoothed + rest)
            of_both = _variation(quantized @ _quantized(smoothed, largest_pair) + rest)
            found = of_activation + _GPTQ_SHARE * max(0.0, of_both - of_activation)
            total += found / max(float((expected**2).sum()), 1e-30)
        return total

    recipes = list(_recipes(x.shape[1], weights, is_free))
    errors = [error(recipe(fitted)) * cost for recipe, cost in recipes]
    return recipes[int(np.argmin(errors))][0](x)


_Recipe = Callable[[Floats], Scheme]
"""Makes a scheme from calibration values."""


def _recipes(channels: int, weights: Sequence[Floats], is_free: bool) -> Iterator[tuple[_Recipe, float]]:
    """Ways to a scheme with their run time: the plain one, and those with smoothing or those with outliers."""
    yield _scheme, 1.0
    if is_free:
        for exponent, margin in product(_SMOOTHINGS, _MARGINS):
            yield partial(_centered, weights, exponent, margin), 1.0
    elif sum(weight.shape[1] for weight in weights) < channels:
        for pairs in (pairs for pairs in _OUTLIER_PAIRS if 2 * pairs < channels):
            yield partial(_exceeding, pairs), 1 + 2 * pairs * _CHANNEL_COST
    else:
        for exponent in _SMOOTHINGS:
            yield partial(_smoothed, weights, exponent), _SMOOTHING_COST


def _centered(weights: Sequence[Floats], exponent: float, margin: float, x: Floats) -> Scheme:
    center = (x.max(axis=0) + x.min(axis=0)) / 2
    return _scheme(x, center, _smoothing(x - center, weights, exponent), margin=margin)


def _smoothed(weights: Sequence[Floats], exponent: float, x: Floats) -> Scheme:
    return _scheme(x, smoothing=_smoothing(x, weights, exponent))


def _exceeding(count: int, x: Floats) -> Scheme:
    """Let the largest pairs of channels exceed the range."""
    pairs = np.maximum(x.max(axis=0), -x.min(axis=0))[: x.shape[1] // 2 * 2].reshape(-1, 2).max(axis=1)
    largest = np.sort(np.argsort(-pairs, kind="stable")[:count])
    return _scheme(x, outliers=(2 * largest[:, None] + [0, 1]).reshape(-1))


def _scheme(
    x: Floats,
    center: Floats | None = None,
    smoothing: Floats | None = None,
    outliers: Iterable[int] = (),
    margin: float = _MARGIN,
) -> Scheme:
    channels = np.array(list(outliers), np.int64)
    values = Scheme(center, smoothing, 0, 0, channels).smoothed(x)
    inside = np.delete(values, channels, axis=1) if len(channels) else values
    low, high = (margin * float(edge) for edge in (min(0.0, inside.min()), max(0.0, inside.max())))
    if low == high:  # only zeros
        high = 1.0
    return Scheme(center, smoothing, low, high, channels)


def _smoothing(x: Floats, weights: Sequence[Floats], exponent: float) -> Floats:
    """Compute `max|x|^a / max|w|^(1 - a)` of each channel, with a geometric mean of 1."""
    activation = np.maximum(np.abs(x).max(axis=0), 1e-5).astype(np.float64)
    weight = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1e-5)
    logarithm = exponent * np.log(activation) - (1 - exponent) * np.log(weight)
    return np.asarray(np.exp(logarithm - logarithm.mean()), np.float32)


def _variation(errors: NDArray[np.floating]) -> float:
    """Sum of squares without the mean of each column, which the bias corrects."""
    return float(((errors - errors.mean(axis=0)) ** 2).sum())


def _quantized(weight: Floats, largest_pair: int) -> Floats:
    """Quantize and dequantize weights, with a scale for each column."""
    scales = column_scales(weight, largest_pair)
    return np.asarray(np.round(weight / scales) * scales, np.float32)

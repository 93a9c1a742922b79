"""How the input of a product becomes 8 bits: by one scale and one zero point, which no text can change.

Three things keep the error of so coarse a grid small. Channels that are larger than others are divided by a factor of
their own, which goes into the weights (SmoothQuant, arXiv:2211.10438, equation 4). Where an input is wider than what is
computed of it, a few channels may exceed the range instead, and the excess is added in float32: after an activation
such as GELU one channel of a thousand may be ten times as large as all others. And which of these is taken is decided
by the error that it leaves in the product.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LEVELS = 255
LARGEST_WEIGHT = 127
# Exponents of the largest activation of a channel, against that of the largest weight.
_SMOOTHINGS = (0.5, 0.6, 0.7, 0.8, 0.9)
_EXCEEDING = (8, 16, 32)
# What each costs in time, as the error that it has to save.
_COST_OF_SMOOTHING, _COST_OF_A_CHANNEL = 1.1, 1 / 160
# Other texts may go beyond what was seen, by so much; without it odd ones lose a percent of cosine and more.
_MARGIN = 1.1
# Tokens over which the error is taken.
_JUDGED = 2048


@dataclass(frozen=True)
class Scheme:
    """How one value is put into 8 bits.

    Attributes:
        smoothing: What each channel is divided by, float32 `[channels]`, or None.
        low: The smallest number, at most 0.
        high: The largest number, at least 0.
        exceeding: The channels whose excess over the range is added in float32, int64, ascending.
    """

    smoothing: Floats | None
    low: float
    high: float
    exceeding: NDArray[np.int64]

    @property
    def scale(self) -> np.float32:
        """The distance of two levels."""
        return np.float32((self.high - self.low) / _LEVELS)

    @property
    def zero_point(self) -> np.uint8:
        """The level that stands for 0."""
        return np.uint8(np.clip(np.round(-self.low / self.scale), 0, _LEVELS))

    def smoothed(self, x: Floats) -> Floats:
        """The values that are put into 8 bits, `[tokens, channels]`."""
        return x if self.smoothing is None else x / self.smoothing

    def rounded(self, x: Floats) -> Floats:
        """What 8 bits leave of the smoothed values, `[tokens, channels]`."""
        zero = np.float32(self.zero_point)
        levels = np.clip(np.round(self.smoothed(x) / self.scale) + zero, 0, _LEVELS)
        return np.asarray((levels - zero) * self.scale, np.float32)

    def excess(self, x: Floats) -> Floats:
        """What the exceeding channels have beyond the range, `[tokens, exceeding]`."""
        some = x[:, self.exceeding]
        return some - np.clip(some, np.float32(self.low), np.float32(self.high))


def choose(x: Floats, weights: Sequence[Floats]) -> Scheme:
    """The scheme that leaves the smallest error in the products, with its cost in time counted as error.

    Args:
        x: Values of the input, float32 `[tokens, channels]`.
        weights: Of the products that read it, float32 `[channels, outputs]` each.
    """
    judged = x[np.linspace(0, len(x) - 1, min(len(x), _JUDGED)).astype(np.int64)]
    exact = [judged @ weight for weight in weights]

    def error(scheme: Scheme) -> float:
        rounded, excess = scheme.rounded(judged), scheme.excess(judged)
        total = 0.0
        for weight, expected in zip(weights, exact, strict=True):
            smoothed = weight if scheme.smoothing is None else weight * scheme.smoothing[:, None]
            found = rounded @ _coarse(smoothed) + excess @ weight[scheme.exceeding]
            total += float(((found - expected) ** 2).sum() / max(float((expected**2).sum()), 1e-30))
        return total

    costs = [(error(scheme) * cost, i, scheme) for i, (scheme, cost) in enumerate(_candidates(x, weights))]
    return min(costs)[2]


def _candidates(x: Floats, weights: Sequence[Floats]) -> Iterator[tuple[Scheme, float]]:
    """Schemes and what they cost: the plain one, and those that work on the narrower side of the products."""
    yield _scheme(x), 1.0
    if sum(weight.shape[1] for weight in weights) < x.shape[1]:
        largest = np.maximum(x.max(axis=0), -x.min(axis=0))
        for count in (count for count in _EXCEEDING if count < x.shape[1]):
            yield (
                _scheme(x, exceeding=np.sort(np.argsort(-largest, kind="stable")[:count])),
                (1 + count * _COST_OF_A_CHANNEL),
            )
        return
    for exponent in _SMOOTHINGS:
        yield _scheme(x, smoothing=_smoothing(x, weights, exponent)), _COST_OF_SMOOTHING


def _scheme(x: Floats, smoothing: Floats | None = None, exceeding: Iterable[int] = ()) -> Scheme:
    channels = np.array(list(exceeding), np.int64)
    values = x if smoothing is None else x / smoothing
    inside = np.delete(values, channels, axis=1) if len(channels) else values
    low, high = (_MARGIN * float(edge) for edge in (min(0.0, inside.min()), max(0.0, inside.max())))
    if low == high:  # nothing but zeros
        high = 1.0
    return Scheme(smoothing, low, high, channels)


def _smoothing(x: Floats, weights: Sequence[Floats], exponent: float) -> Floats:
    """`max|x|^a / max|w|^(1 - a)` of every channel, with a geometric mean of 1."""
    activation = np.maximum(np.abs(x).max(axis=0), 1e-5).astype(np.float64)
    weight = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1e-5)
    logarithm = exponent * np.log(activation) - (1 - exponent) * np.log(weight)
    return np.asarray(np.exp(logarithm - logarithm.mean()), np.float32)


def _coarse(weight: Floats) -> Floats:
    """What 8 bits leave of weights, each column on its own grid."""
    grid = column_scales(weight)
    return np.asarray(np.round(weight / grid) * grid, np.float32)


def column_scales(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """The distance of two levels of every column of `[channels, outputs]`, so that the largest weight is a level."""
    largest: NDArray[np.float64] = np.abs(weight).max(axis=0).astype(np.float64)
    return np.where(largest == 0, 1.0, largest / LARGEST_WEIGHT)

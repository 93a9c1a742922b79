"""Levels of int8 weights, and the bound under which no int8 kernel saturates.

The u8 x s8 kernels for AVX2, and for AVX-512 without VNNI, add two products in 16 bits: those of the rows `2k` and
`2k + 1` of a column. With activations up to 255, no sum saturates if the positive weights of every such pair add up to
at most 128, and the negative ones to at least -128.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_WEIGHT = 127
EXACT_PAIR = 128
"""The largest pair with which sums fit into 16 bits: `255 * 128 < 2**15`."""
FULL_PAIR = 2 * LARGEST_WEIGHT
"""The largest pair of any weights, which bounds nothing."""


def largest_pair(levels: NDArray[np.int8]) -> int:
    """Largest sum, in magnitude, of the weights of one sign in a pair of adjacent rows of a column.

    Args:
        levels: `[channels, outputs]`.
    """
    return int(_pair_sums(levels.astype(np.int16)).max(initial=0))


def column_scales(weight: NDArray[np.floating], largest_pair: int) -> NDArray[np.float64]:
    """Scale of each column of `[channels, outputs]`: its weights are at most the largest level, its pairs the bound.

    Args:
        weight: The weights.
        largest_pair: Bound for pairs of levels.
    """
    largest = np.abs(weight).max(axis=0).astype(np.float64) / LARGEST_WEIGHT
    scales: NDArray[np.float64] = np.maximum(largest, _pair_sums(weight).max(axis=0).astype(np.float64) / largest_pair)
    return np.where(scales == 0, 1.0, scales)


def _pair_sums(rows: NDArray[Any]) -> NDArray[Any]:
    """The larger of the two sums, of positive weights and of negative ones, of each pair: `[pairs, outputs]`."""
    first, second = rows[::2], rows[1::2]
    if len(second) < len(first):  # a last row alone has a partner of zeros
        second = np.concatenate([second, np.zeros_like(first[-1:])])
    positive, negative = (np.maximum(sign * first, 0) + np.maximum(sign * second, 0) for sign in (1, -1))
    sums: NDArray[Any] = np.maximum(positive, negative)
    return sums

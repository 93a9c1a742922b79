"""GPTQ rounding of weights: the error of each rounded row is compensated in the rows still to be rounded."""

import numpy as np
from numpy.typing import NDArray

from embedrt_export.dtypes.int8.levels import LARGEST_WEIGHT, column_scales

# Share of the mean that is added to the diagonal, as few texts have little data on rare channels.
_DAMPING = 0.01
# Rows that are rounded before all later rows are corrected, in one matmul.
_BLOCK = 64


def round_weights(
    weight: NDArray[np.float64], moments: NDArray[np.float64], largest_pair: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight matrix so that its outputs on typical inputs change little (GPTQ, arXiv:2210.17323).

    Rows are rounded one by one, those of the largest inputs first. The error of each is compensated in the later rows,
    as far as their inputs correlate. Of two rows that are a pair, the first is free, and the second, whose inputs are
    smaller, takes what the first leaves of the bound.

    Args:
        weight: float64 `[channels, outputs]`.
        moments: `x.T @ x` of the quantized inputs, float64 `[channels, channels]`.
        largest_pair: Bound for pairs of levels; see `levels.largest_pair`.

    Returns:
        Levels, int8 `[channels, outputs]`, and the scale of each column, float32 `[outputs]`.
    """
    scales = column_scales(weight, largest_pair)
    channels = len(weight)
    order = np.argsort(-moments.diagonal(), kind="stable")
    damped = moments[np.ix_(order, order)]
    damped[np.diag_indices(channels)] += max(float(moments.diagonal().mean()) * _DAMPING, 1e-30)
    carry = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest = weight[order]
    levels = np.zeros((channels + channels % 2, weight.shape[1]), np.int8)  # a last row alone has a partner of zeros
    for start in range(0, channels, _BLOCK):
        end = min(start + _BLOCK, channels)
        errors = np.empty((end - start, weight.shape[1]))
        for row in range(start, end):
            partner = levels[order[row] ^ 1].astype(np.int64)
            low = np.maximum(-LARGEST_WEIGHT, -largest_pair - np.minimum(partner, 0))
            high = np.minimum(LARGEST_WEIGHT, largest_pair - np.maximum(partner, 0))
            level = np.clip(np.round(rest[row] / scales), low, high)
            levels[order[row]] = level
            errors[row - start] = (rest[row] - level * scales) / carry[row, row]
            rest[row + 1 : end] -= np.outer(carry[row, row + 1 : end], errors[row - start])
        rest[end:] -= carry[start:end, end:].T @ errors
    return levels[:channels], scales.astype(np.float32)

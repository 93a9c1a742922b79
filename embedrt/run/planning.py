"""Batch planning: pure functions from token counts to batches."""

from dataclasses import dataclass
from itertools import count
from operator import add

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """One batch of a plan.

    Attributes:
        rows: Indexes of the planned texts, int64.
        length: Padded length in tokens, at least that of the longest row.
    """

    rows: NDArray[np.int64]
    length: int


def padded_length(length: int, step: int = 1, limit: int | None = None) -> int:
    """Round a length up to one of few lengths, so that an engine that compiles per shape sees few shapes.

    Lengths are multiples of `step`; from 16 steps on, the step doubles whenever the length does. With a step of 8 there
    are 80 lengths up to 8192, and a long row grows by at most an eighth.

    Args:
        length: Tokens of a row.
        step: Smallest step; 1 leaves every length unchanged.
        limit: Upper bound for the padded length, such as the positions of the model.
    """
    if step == 1:
        return length
    step = max(step, 1 << max(0, (length - 1).bit_length() - 4))
    rounded = -(-length // step) * step
    return rounded if limit is None else max(length, min(rounded, limit))


def plan(
    lengths: ArrayLike,
    *,
    token_budget: int,
    max_rows: int,
    run_cost: int = 0,
    step: int = 1,
    limit: int | None = None,
) -> list[PlannedBatch]:
    """Group texts into batches with the lowest total cost, longest first.

    A batch costs `rows x length` tokens, padding included, plus `run_cost`. It has at most `max_rows` rows, and at most
    `token_budget` tokens unless a single row is longer. Memory is therefore bounded by the budget, and texts of
    different lengths share a batch if padding is cheaper than another batch.

    Args:
        lengths: Token count of every text.
        token_budget: Upper bound of `rows x length`.
        max_rows: Upper bound of rows.
        run_cost: Fixed cost of a batch, in tokens.
        step: See `padded_length`, which rounds the lengths of batches.
        limit: See `padded_length`.
    """
    counts = np.asarray(lengths, np.int64)
    if len(counts) == 1:  # fast path for a single query
        return [PlannedBatch(np.zeros(1, np.int64), padded_length(int(counts[0]), step, limit))]
    order = np.argsort(-counts, kind="stable")
    padded = [padded_length(length, step, limit) for length in counts[order].tolist()]
    # Dynamic programming from the end: the lowest cost of the texts from here on, and the end of their first batch.
    cheapest = [0] * (len(padded) + 1)
    ends = [0] * len(padded)
    for start in range(len(padded) - 1, -1, -1):
        length = padded[start]
        most = min(max_rows, max(1, token_budget // max(1, length)), len(padded) - start)
        costs = list(map(add, cheapest[start + 1 : start + 1 + most], count(length, length)))
        cost = min(costs)
        cheapest[start] = cost + run_cost
        ends[start] = start + 1 + costs.index(cost)
    batches = []
    start = 0
    while start < len(padded):
        batches.append(PlannedBatch(order[start : ends[start]], padded[start]))
        start = ends[start]
    return batches

"""Batch planning: pure functions from token counts to batches."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedrt.inputs.text import runs_of

# More tokens and rows than any call has, in int64.
_UNBOUNDED = 1 << 62
# The smallest batch towards the end of a call, in costs of a run: one more batch then costs an eighth of its tokens.
_FEWEST_RUNS = 8


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
    max_rows: int | None = None,
    run_cost: int = 0,
    step: int = 1,
    limit: int | None = None,
    workers: int = 1,
) -> list[PlannedBatch]:
    """Group texts into padded batches with the lowest total cost, longest first.

    A batch costs `rows x length` tokens, padding included, plus `run_cost`. It has at most `max_rows` rows, and at most
    `token_budget` tokens unless a single row is longer. Memory is therefore bounded by the budget, and texts of
    different lengths share a batch if padding is cheaper than another batch. Of equally cheap plans, the one with the
    smallest first batches is returned.

    Several workers that take one batch after the other end at the same time only if the last batches are small. So with
    several workers, a batch has at most a worker's share of the tokens that are left.

    Args:
        lengths: Token count of every text.
        token_budget: Upper bound of `rows x length`.
        max_rows: Upper bound of rows; None leaves it to the budget.
        run_cost: Fixed cost of a batch, in tokens.
        step: See `padded_length`, which rounds the lengths of batches.
        limit: See `padded_length`.
        workers: Workers that compute the batches; 1 if there are more batches to come.
    """
    counts = np.asarray(lengths, np.int64)
    if len(counts) == 1:  # fast path for a single query
        return [PlannedBatch(np.zeros(1, np.int64), padded_length(int(counts[0]), step, limit))]
    order = np.argsort(-counts, kind="stable")
    padded = _padded_lengths(counts[order], step, limit)
    budgets = _budgets(padded, min(token_budget, _UNBOUNDED), _FEWEST_RUNS * run_cost, workers)
    most = np.maximum(1, budgets // np.maximum(1, padded))
    if max_rows is not None:
        most = np.minimum(most, min(max_rows, _UNBOUNDED))
    limits = np.minimum(np.arange(len(padded)) + most, len(padded))
    limits = np.minimum.accumulate(limits[::-1])[::-1]  # increasing, also where budgets shrink
    lengths_in_order = padded.tolist()
    ends = _cheapest_ends(lengths_in_order, limits, run_cost)
    batches = []
    start = 0
    while start < len(padded):
        batches.append(PlannedBatch(order[start : ends[start]], lengths_in_order[start]))
        start = ends[start]
    return batches


def _budgets(lengths: NDArray[np.int64], token_budget: int, least: int, workers: int) -> NDArray[np.int64]:
    """The token budget of the batch that starts at each row: smaller towards the end if there are several workers.

    Texts within one budget are left to one worker.
    """
    left = np.cumsum(lengths[::-1])[::-1]
    if workers == 1 or left[:1].sum() <= token_budget:
        return np.full(len(lengths), token_budget)
    return np.clip(left // workers, min(least, token_budget), token_budget)


def _padded_lengths(lengths: NDArray[np.int64], step: int, limit: int | None) -> NDArray[np.int64]:
    if step == 1:
        return lengths
    distinct, index = np.unique(lengths, return_inverse=True)
    return np.array([padded_length(length, step, limit) for length in distinct.tolist()], np.int64)[index]


def _cheapest_ends(lengths: list[int], limits: NDArray[np.int64], run_cost: int) -> list[int]:
    """The end of the batch that starts at each row, in the cheapest plan of the rows from there on.

    Dynamic programming from the last row to the first. The cost of the rows from `start` is the minimum over all ends
    of `(end - start) * lengths[start] + cheapest[end] + run_cost`. Since lengths grow towards the first row, an end
    that is cheaper than a later one stays cheaper for all starts before. So each end is the best for one interval of
    starts, and a queue of these ends finds every minimum with a binary search, however many rows a batch may have.

    Args:
        lengths: Lengths of the rows, longest first.
        limits: The largest end of a batch that starts at each row, increasing.
        run_cost: Fixed cost of a batch.
    """
    count = len(lengths)
    upwards = lengths[::-1]  # by step: step s is for the batch that starts at row count - 1 - s
    # The first step at which each end is beyond its limit.
    expired = (count - np.searchsorted(limits, np.arange(count + 1))).tolist()
    cheapest = [0] * (count + 1)
    ends = [0] * count
    best = [count]  # ends in the order in which they become the best one, latest first
    since = [0]  # the step from which each of them is the best
    head = 0
    for step in range(count):
        start = count - 1 - step
        end = start + 1
        if step:  # the end `count` is there from the beginning
            while True:
                later = best[-1]
                slope = -((cheapest[later] - cheapest[end]) // (later - end))  # rounded up
                first = max(step, min(bisect_left(upwards, slope), expired[later]))
                if len(best) - head > 1 and first <= since[-1]:
                    best.pop()
                    since.pop()
                else:
                    break
            best.append(end)
            since.append(first)
            while head + 1 < len(best) and since[head + 1] <= step:
                head += 1
        chosen = ends[start] = best[head]
        cheapest[start] = cheapest[chosen] + (chosen - start) * lengths[start] + run_cost
    return ends


def plan_packed(
    lengths: ArrayLike, *, token_budget: int, max_rows: int | None = None, least: int = 0
) -> list[PlannedBatch]:
    """Group texts into batches without padding, longest first.

    A batch has at most `token_budget` tokens, unless a single row is longer, and at most `max_rows` rows. Texts of
    similar lengths come together because some inputs of a packed graph are as wide as the longest text.

    Args:
        lengths: Token count of every text.
        token_budget: Upper bound of the tokens of a batch.
        max_rows: Upper bound of rows; None leaves it to the budget.
        least: Tokens that a shorter row counts as.
    """
    counts = np.asarray(lengths, np.int64)
    order = np.argsort(-counts, kind="stable")
    in_order = counts[order]
    sizes = np.maximum(in_order, least)
    return [
        PlannedBatch(order[start:end], int(in_order[start])) for start, end in runs_of(sizes, token_budget, max_rows)
    ]

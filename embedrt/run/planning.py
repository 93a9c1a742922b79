"""From token counts to batches: pure functions, no engine."""

from dataclasses import dataclass
from itertools import count
from operator import add

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """Rows that go through the model together.

    Attributes:
        rows: Indexes into the planned texts, int64.
        length: Tokens of the longest of them, or some more; all are padded to it.
    """

    rows: NDArray[np.int64]
    length: int


def padded_length(length: int, step: int = 1, limit: int | None = None) -> int:
    """The next of few lengths: multiples of `step`, from 16 steps on of a step that doubles where the length does.

    So the lengths to 8192 become 80 with a step of 8, and a long row grows by an eighth at most.

    Args:
        length: Tokens of a row.
        step: 1 leaves every length as it is.
        limit: What the model reads at most, which padding does not go beyond.
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
    """Cuts texts into the batches that cost least, longest first.

    A batch costs its `rows x length`, padding included, and `run_cost` on top. It has at most `max_rows` rows, and at
    most `token_budget` tokens unless a single row is longer than that. So memory depends on the budget and not on the
    texts, and texts of different lengths share a batch where that is cheaper than one more.

    Args:
        lengths: Token count of every text.
        token_budget: Upper bound of `rows x length`.
        max_rows: Upper bound of rows.
        run_cost: What a batch costs before its first token, in tokens.
        step: Batches have lengths of `padded_length`, which keeps an engine that compiles for shapes to few of them.
        limit: As there.
    """
    counts = np.asarray(lengths, np.int64)
    if len(counts) == 1:  # a single query has nothing to weigh, and no time for it
        return [PlannedBatch(np.zeros(1, np.int64), padded_length(int(counts[0]), step, limit))]
    order = np.argsort(-counts, kind="stable")
    padded = [padded_length(length, step, limit) for length in counts[order].tolist()]
    # From the end: what the texts from here on cost at least, and where the first of their batches ends.
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

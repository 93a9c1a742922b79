"""From token counts to batches: pure functions, no engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
        rows: Indexes into the planned texts.
        length: Tokens of the longest of them, or some more; all are padded to it.
    """

    rows: tuple[int, ...]
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
    lengths: Sequence[int], *, token_budget: int, max_rows: int, step: int = 1, limit: int | None = None
) -> list[Batch]:
    """Cuts texts into batches of near-equal length, longest first.

    A batch has at most `max_rows` rows, and `rows x length` is at most `token_budget` unless a single row is longer
    than that. So padding costs next to nothing, and memory depends on the budget and not on the texts.

    Args:
        lengths: Token count of every text.
        token_budget: Upper bound of `rows x length`.
        max_rows: Upper bound of rows.
        step: Batches have lengths of `padded_length`, which keeps an engine that compiles for shapes to few of them.
        limit: As there.
    """
    batches: list[Batch] = []
    rows: list[int] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if rows and (len(rows) == max_rows or (len(rows) + 1) * longest > token_budget):
            batches.append(Batch(tuple(rows), longest))
            rows = []
        if not rows:
            longest = padded_length(lengths[row], step, limit)
        rows.append(row)
    if rows:
        batches.append(Batch(tuple(rows), longest))
    return batches


def pad(sequences: Sequence[Sequence[int]], length: int, *, fill: int, left: bool) -> NDArray[np.int64]:
    """Writes sequences into one int64 array `[len(sequences), length]`, the rest filled with `fill`."""
    padded = np.full((len(sequences), length), fill, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        if left:
            row[length - len(sequence) :] = sequence
        else:
            row[: len(sequence)] = sequence
    return padded

"""Batches: what holds for any lengths, any budget and any number of rows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedrt.planning import Batch, pad, padded_length, plan

LENGTHS = st.lists(st.integers(0, 600), max_size=80)
BUDGETS = st.integers(1, 2000)
ROWS = st.integers(1, 40)


@given(LENGTHS, BUDGETS, ROWS)
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, rows: int) -> None:
    batches = plan(lengths, token_budget=budget, max_rows=rows)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    assert all(batch.rows for batch in batches)


@given(LENGTHS, BUDGETS, ROWS)
def test_no_batch_exceeds_its_limits(lengths: list[int], budget: int, rows: int) -> None:
    for batch in plan(lengths, token_budget=budget, max_rows=rows):
        assert batch.length == max(lengths[row] for row in batch.rows)
        assert len(batch.rows) <= rows
        assert len(batch.rows) * batch.length <= budget or len(batch.rows) == 1


@given(LENGTHS, BUDGETS, ROWS)
def test_longest_first_and_equal_lengths_in_order(lengths: list[int], budget: int, rows: int) -> None:
    order = [row for batch in plan(lengths, token_budget=budget, max_rows=rows) for row in batch.rows]
    for before, after in pairwise(order):
        assert (lengths[before], after) > (lengths[after], before)


@given(LENGTHS, BUDGETS, ROWS)
def test_no_batch_has_room_for_the_next_row(lengths: list[int], budget: int, rows: int) -> None:
    for batch in plan(lengths, token_budget=budget, max_rows=rows)[:-1]:
        assert len(batch.rows) == rows or (len(batch.rows) + 1) * batch.length > budget


@given(LENGTHS, BUDGETS, ROWS)
@example([600] + [1] * 79, 2000, 40)
def test_padding_is_at_most_one_batch_of_the_spread(lengths: list[int], budget: int, rows: int) -> None:
    """A batch wastes at most its rows times the step down to the next batch, and the steps add up to the spread."""
    batches = plan(lengths, token_budget=budget, max_rows=rows)
    padded = sum(len(batch.rows) * batch.length for batch in batches)
    spread = max(lengths, default=0) - min(lengths, default=0)
    most_rows = max((len(batch.rows) for batch in batches), default=0)
    assert 0 <= padded - sum(lengths) <= most_rows * spread


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([5], [Batch((0,), 5)]),
        ([900], [Batch((0,), 900)]),
        ([900, 900], [Batch((0,), 900), Batch((1,), 900)]),
        ([3, 8, 3], [Batch((1, 0, 2), 8)]),
        ([50, 51, 1], [Batch((1,), 51), Batch((0, 2), 50)]),
        ([1, 1, 1, 1, 1, 1], [Batch((0, 1, 2, 3, 4), 1), Batch((5,), 1)]),
    ],
)
def test_by_hand(lengths: list[int], batches: list[Batch]) -> None:
    assert plan(lengths, token_budget=100, max_rows=5) == batches


SEQUENCES = st.lists(st.lists(st.integers(1, 2**62), max_size=9), min_size=1, max_size=6)


@given(SEQUENCES, st.integers(0, 5), st.integers(-3, 0), st.booleans())
def test_pad_keeps_sequences_and_fills_the_rest(sequences: list[list[int]], extra: int, fill: int, left: bool) -> None:
    length = max(map(len, sequences)) + extra
    padded = pad(sequences, length, fill=fill, left=left)
    assert padded.shape == (len(sequences), length)
    assert padded.dtype == np.int64
    for row, sequence in zip(padded.tolist(), sequences, strict=True):
        filling = [fill] * (length - len(sequence))
        assert row == (filling + sequence if left else sequence + filling)


def test_pad_by_hand() -> None:
    assert pad([[1, 2], [], [3]], 3, fill=9, left=False).tolist() == [[1, 2, 9], [9, 9, 9], [3, 9, 9]]
    assert pad([[1, 2], [], [3]], 3, fill=9, left=True).tolist() == [[9, 1, 2], [9, 9, 9], [9, 9, 3]]


@pytest.mark.parametrize("left", [False, True])
def test_pad_refuses_a_sequence_that_is_too_long(left: bool) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        pad([[1, 2, 3, 4]], 3, fill=0, left=left)


@given(st.integers(0, 20_000), st.integers(2, 64), st.one_of(st.none(), st.integers(0, 20_000)))
@example(length=129, step=8, limit=130)
def test_a_padded_length_is_little_more_and_within_the_limit(length: int, step: int, limit: int | None) -> None:
    padded = padded_length(length, step, limit)
    assert length <= padded <= max(length + step - 1, length * 9 / 8)
    assert limit is None or padded <= max(length, limit)
    assert padded_length(padded, step, limit) == padded


def test_padded_lengths_are_few() -> None:
    assert len({padded_length(length, 8) for length in range(1, 257)}) == 24
    assert len({padded_length(length, 8) for length in range(1, 8193)}) <= 80
    assert [padded_length(length) for length in range(600)] == list(range(600))


@given(LENGTHS, BUDGETS, ROWS, st.integers(2, 64))
def test_batches_of_few_lengths(lengths: list[int], budget: int, rows: int, step: int) -> None:
    batches = plan(lengths, token_budget=budget, max_rows=rows, step=step, limit=600)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert batch.length == padded_length(max(lengths[row] for row in batch.rows), step, 600)
        assert len(batch.rows) * batch.length <= budget or len(batch.rows) == 1

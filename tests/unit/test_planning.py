"""Batches: what holds for any lengths, any budget and any number of rows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedrt.run.planning import Batch, pad, padded_length, plan

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


def cheapest(lengths: list[int], budget: int, rows: int, run_cost: int) -> int:
    """What the best of all ways to cut the sorted texts costs, by trying each."""
    if not lengths:
        return 0
    most = min(rows, max(1, budget // max(1, lengths[0])), len(lengths))
    return min(
        lengths[0] * count + run_cost + cheapest(lengths[count:], budget, rows, run_cost)
        for count in range(1, most + 1)
    )


@given(st.lists(st.integers(0, 60), max_size=9), st.integers(1, 200), st.integers(1, 6), st.integers(0, 40))
def test_no_other_way_to_cut_is_cheaper(lengths: list[int], budget: int, rows: int, run_cost: int) -> None:
    batches = plan(lengths, token_budget=budget, max_rows=rows, run_cost=run_cost)
    cost = sum(len(batch.rows) * batch.length + run_cost for batch in batches)
    assert cost == cheapest(sorted(lengths, reverse=True), budget, rows, run_cost)


@given(LENGTHS, BUDGETS, ROWS)
@example([600] + [1] * 79, 2000, 40)
def test_batches_that_cost_nothing_have_no_padding(lengths: list[int], budget: int, rows: int) -> None:
    batches = plan(lengths, token_budget=budget, max_rows=rows)
    assert sum(len(batch.rows) * batch.length for batch in batches) == sum(lengths)


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([5], [Batch((0,), 5)]),
        ([900], [Batch((0,), 900)]),
        ([900, 900], [Batch((0,), 900), Batch((1,), 900)]),
        ([3, 8, 3], [Batch((1, 0, 2), 8)]),  # 10 tokens of padding, which is less than a batch costs
        ([3, 30, 3], [Batch((1,), 30), Batch((0, 2), 3)]),
        ([50, 51, 1], [Batch((1,), 51), Batch((0,), 50), Batch((2,), 1)]),
        ([1, 1, 1, 1, 1, 1], [Batch((0,), 1), Batch((1, 2, 3, 4, 5), 1)]),
    ],
)
def test_by_hand(lengths: list[int], batches: list[Batch]) -> None:
    assert plan(lengths, token_budget=100, max_rows=5, run_cost=12) == batches


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

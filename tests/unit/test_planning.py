"""Plans: properties of batches for any lengths, any budget and any number of rows."""

import heapq
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedrt.run.planning import PlannedBatch, padded_length, plan, plan_packed

Shape = list[tuple[list[int], int]]
LENGTHS = st.lists(st.integers(0, 600), max_size=80)
BUDGETS = st.integers(1, 2000)
ROWS = st.integers(1, 40)


@given(LENGTHS, BUDGETS, ROWS)
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, rows: int) -> None:
    batches = plan(lengths, token_budget=budget, max_rows=rows)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    assert all(len(batch.rows) for batch in batches)


@given(LENGTHS, BUDGETS, ROWS)
def test_no_batch_exceeds_its_limits(lengths: list[int], budget: int, rows: int) -> None:
    for batch in plan(lengths, token_budget=budget, max_rows=rows):
        assert batch.length == max(lengths[row] for row in batch.rows)
        assert len(batch.rows) <= rows
        assert len(batch.rows) * batch.length <= budget or len(batch.rows) == 1


@given(LENGTHS, BUDGETS, ROWS)
def test_longest_first_and_equal_lengths_in_order(lengths: list[int], budget: int, rows: int) -> None:
    order = [row for batch in plan(lengths, token_budget=budget, max_rows=rows) for row in batch.rows.tolist()]
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
        ([5], [((0,), 5)]),
        ([900], [((0,), 900)]),
        ([900, 900], [((0,), 900), ((1,), 900)]),
        ([3, 8, 3], [((1, 0, 2), 8)]),  # 10 tokens of padding, which is less than a batch costs
        ([3, 30, 3], [((1,), 30), ((0, 2), 3)]),
        ([50, 51, 1], [((1,), 51), ((0,), 50), ((2,), 1)]),
        ([1, 1, 1, 1, 1, 1], [((0,), 1), ((1, 2, 3, 4, 5), 1)]),
    ],
)
def test_by_hand(lengths: list[int], batches: list[tuple[tuple[int, ...], int]]) -> None:
    found = plan(lengths, token_budget=100, max_rows=5, run_cost=12)
    assert [(tuple(batch.rows), batch.length) for batch in found] == batches
    assert all(batch.rows.dtype == np.int64 for batch in found)


@given(st.integers(0, 20_000), st.integers(2, 64), st.one_of(st.none(), st.integers(0, 20_000)))
@example(length=129, step=8, limit=130)
def test_a_padded_length_is_little_more_and_within_the_limit(length: int, step: int, limit: int | None) -> None:
    padded = padded_length(length, step, limit)
    assert length <= padded <= max(length + step - 1, length * 9 / 8)
    assert limit is None or padded <= max(length, limit)
    assert padded_length(length + 1, step, limit) >= padded


@given(st.integers(0, 20_000), st.integers(1, 6), st.one_of(st.none(), st.integers(0, 20_000)))
@example(length=241, exponent=4, limit=None)
def test_a_padded_length_stays_as_it_is_for_steps_that_are_powers_of_two(
    length: int, exponent: int, limit: int | None
) -> None:
    """For another step it may grow once more: 241 by 20 is 260, and that is 288."""
    padded = padded_length(length, 1 << exponent, limit)
    assert padded_length(padded, 1 << exponent, limit) == padded
    assert padded % (1 << exponent) == 0 or padded in {length, limit}


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


def shape(batches: list[PlannedBatch]) -> Shape:
    return [(batch.rows.tolist(), batch.length) for batch in batches]


def tried(lengths: list[int], budget: int, most_rows: int, run_cost: int) -> Shape:
    """The plan of a program that tries every end of every batch, and takes the first of the cheapest."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cheapest, ends = [0] * (len(order) + 1), [0] * len(order)
    for start in reversed(range(len(order))):
        length = lengths[order[start]]
        most = min(most_rows, max(1, budget // max(1, length)), len(order) - start)
        costs = [cheapest[start + rows] + rows * length for rows in range(1, most + 1)]
        cheapest[start] = min(costs) + run_cost
        ends[start] = start + 1 + costs.index(min(costs))
    batches, start = [], 0
    while start < len(order):
        batches.append((order[start : ends[start]], lengths[order[start]]))
        start = ends[start]
    return batches


@given(LENGTHS, st.integers(1, 40_000), st.integers(1, 100), st.sampled_from([0, 1, 16, 512]))
@example([5] * 80, 100, 100, 0)
@example([0] * 30 + [9] * 30, 40_000, 100, 512)
@example([600, 300, 299, 298, 1, 1, 1], 1200, 100, 16)
def test_the_search_takes_the_plan_of_a_program_that_tries_all(
    lengths: list[int], budget: int, rows: int, run_cost: int
) -> None:
    found = plan(lengths, token_budget=budget, max_rows=rows, run_cost=run_cost)
    assert shape(found) == tried(lengths, budget, rows, run_cost)


def test_many_rows_and_a_large_budget() -> None:
    """A program that tries every end would look at 10^10 of them."""
    lengths = np.random.default_rng(0).integers(3, 256, 200_000)
    batches = plan(lengths, token_budget=1 << 24, run_cost=512)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(len(lengths)))
    assert len(batches) == 253  # one for each length


@given(LENGTHS, BUDGETS)
def test_without_a_bound_of_rows_the_budget_decides(lengths: list[int], budget: int) -> None:
    bound = len(lengths) + 1
    assert shape(plan(lengths, token_budget=budget)) == shape(plan(lengths, token_budget=budget, max_rows=bound))
    assert shape(plan_packed(lengths, token_budget=budget)) == shape(
        plan_packed(lengths, token_budget=budget, max_rows=bound)
    )


@given(LENGTHS, BUDGETS, st.one_of(st.none(), ROWS))
def test_packed_batches_are_as_large_as_the_budget_allows(lengths: list[int], budget: int, rows: int | None) -> None:
    batches = plan_packed(lengths, token_budget=budget, max_rows=rows)
    order = [row for batch in batches for row in batch.rows.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for batch in batches:
        tokens = sum(lengths[row] for row in batch.rows)
        assert batch.length == max(lengths[row] for row in batch.rows)
        assert tokens <= budget or len(batch.rows) == 1
        assert rows is None or len(batch.rows) <= rows
    for batch, following in pairwise(batches):
        tokens = sum(lengths[row] for row in [*batch.rows, following.rows[0]])
        assert len(batch.rows) == rows or tokens > budget


@pytest.mark.parametrize("bound", [2**63 - 1, 2**63, 10**30])
def test_bounds_beyond_every_number(bound: int) -> None:
    lengths = [3, 5, 4]
    assert shape(plan(lengths, token_budget=bound, max_rows=bound, run_cost=12)) == [([1, 2, 0], 5)]
    assert shape(plan_packed(lengths, token_budget=bound, max_rows=bound)) == [([1, 2, 0], 5)]


def test_packed_batches_by_hand() -> None:
    found = plan_packed([5, 40, 5, 30, 30, 200], token_budget=100)
    assert shape(found) == [([5], 200), ([1, 3, 4], 40), ([0, 2], 5)]
    assert shape(plan_packed([5, 5, 5], token_budget=100, max_rows=2)) == [([0, 1], 5), ([2], 5)]
    assert shape(plan_packed([5, 40, 5], token_budget=100, least=30)) == [([1, 0, 2], 40)]
    assert shape(plan_packed([5, 40, 5], token_budget=100, least=31)) == [([1, 0], 40), ([2], 5)]
    assert plan_packed([], token_budget=100) == []


WORKERS = st.integers(2, 200)
RUN_COST = 16


def seconds(batches: list[PlannedBatch], workers: int) -> int:
    """The time until all batches are computed, in tokens: each worker takes the next batch when it is free."""
    free = [0] * workers
    for batch in batches:
        heapq.heapreplace(free, free[0] + len(batch.rows) * batch.length + RUN_COST)
    return max(free)


@given(LENGTHS, BUDGETS, ROWS, WORKERS)
def test_a_plan_for_workers_keeps_all_limits(lengths: list[int], budget: int, rows: int, workers: int) -> None:
    batches = plan(lengths, token_budget=budget, max_rows=rows, run_cost=RUN_COST, workers=workers)
    order = [row for batch in batches for row in batch.rows.tolist()]
    assert order == np.argsort(-np.array(lengths, np.int64), kind="stable").tolist()
    for batch in batches:
        assert batch.length == max(lengths[row] for row in batch.rows)
        assert len(batch.rows) <= rows
        assert len(batch.rows) * batch.length <= budget or len(batch.rows) == 1


def mixed(texts: int) -> NDArray[np.int64]:
    return np.random.default_rng(texts).lognormal(4.3, 0.8, texts).astype(np.int64).clip(3, 256)


@pytest.mark.parametrize(("workers", "gain"), [(2, 0.995), (16, 1.03), (64, 1.2), (128, 1.4)])
def test_workers_end_at_the_same_time(workers: int, gain: float) -> None:
    """In the mean over calls of 100 to 2,000 texts; two workers lose nothing."""
    gains = []
    for texts in (100, 200, 300, 500, 800, 1200, 2000):
        alike, shared = (
            plan(mixed(texts), token_budget=512, run_cost=RUN_COST, workers=count) for count in (1, workers)
        )
        gains.append(seconds(alike, workers) / seconds(shared, workers))
    assert np.mean(gains) >= gain


def test_few_more_batches_for_few_workers() -> None:
    alike, shared = (plan(mixed(300), token_budget=512, run_cost=RUN_COST, workers=workers) for workers in (1, 2))
    assert len(alike) < len(shared) <= len(alike) + 6


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), WORKERS, st.integers(0, 500))
def test_what_fits_one_budget_is_left_to_one_worker(lengths: list[int], workers: int, more: int) -> None:
    budget = sum(lengths) + more
    alone, shared = (plan(lengths, token_budget=budget, run_cost=RUN_COST, workers=count) for count in (1, workers))
    assert [batch.rows.tolist() for batch in shared] == [batch.rows.tolist() for batch in alone]

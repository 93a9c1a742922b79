"""What a tuning tries and which of it wins: pure functions over drawn times."""

from dataclasses import replace
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from embedrt.engine import cuda
from embedrt.engine.devices import DEVICES
from embedrt.tune.candidates import (
    FEWEST_TEXTS,
    MOST_TEXTS,
    Candidate,
    best,
    candidates,
    mixture,
    rounds,
    survivors,
    texts_for,
)

GPU = replace(cuda.DEVICE, kind="gpu", token_budgets=())
BUDGETS = (128, 256, 512, 1024)
RATES = st.dictionaries(
    st.builds(Candidate, st.just("float32"), st.just("cpu"), st.sampled_from([1, 2, 4]), st.sampled_from(BUDGETS)),
    st.floats(0.01, 1e5),
    min_size=1,
)


def measured(*rows: tuple[int, int, float]) -> dict[Candidate, float]:
    return {Candidate("float32", "cpu", threads, budget): rate for threads, budget, rate in rows}


def chosen(*rows: tuple[int, int, float]) -> tuple[int, int]:
    found = best(measured(*rows))
    return found.threads, found.max_tokens


@given(processors=st.integers(1, 512))
def test_candidates_of_a_processor(processors: int) -> None:
    found = candidates("int8", DEVICES["cpu"], processors)
    assert len(set(found)) == len(found)
    assert {c.threads for c in found} == {processors, max(1, processors // 2), max(1, processors // 4)}
    assert {c.max_tokens for c in found} == set(BUDGETS)
    assert {(c.dtype, c.device) for c in found} == {("int8", "cpu")}
    assert Candidate("int8", "cpu", processors, DEVICES["cpu"].token_budget) in found
    engines = [c.engine for c in found]
    assert engines == sorted(engines, key=engines.index)  # each is loaded once


def test_a_device_without_threads_of_its_own_takes_all() -> None:
    budgets = (4096, 8192, 16384, 32768)
    assert [(c.threads, c.max_tokens) for c in candidates("float32", GPU, 8)] == [(8, budget) for budget in budgets]


def test_cuda_is_tried_with_budgets_for_small_and_large_models() -> None:
    found = candidates("float16", DEVICES["cuda"], 8)
    assert [c.max_tokens for c in found] == [4096, 8192, 16384, 32768, 65536, 131072]
    assert {(c.dtype, c.device, c.threads) for c in found} == {("float16", "cuda", 8)}


def test_a_larger_budget_has_to_earn_its_memory() -> None:
    assert chosen((2, 128, 156), (2, 256, 157), (2, 512, 165), (2, 1024, 158)) == (2, 512)
    assert chosen((2, 128, 156), (2, 256, 157), (2, 512, 160), (2, 1024, 158)) == (2, 128)


def test_fewer_threads_have_to_be_clearly_faster() -> None:
    assert chosen((2, 128, 100), (1, 128, 104)) == (2, 128)
    assert chosen((2, 128, 100), (1, 128, 106)) == (1, 128)
    assert chosen((2, 128, 100), (2, 1024, 110), (1, 128, 114)) == (2, 1024)


@given(RATES)
def test_the_best_is_near_the_fastest(rates: dict[Candidate, float]) -> None:
    found = best(rates)
    assert rates[found] * 1.05 * 1.03 >= max(rates.values()) * (1 - 1e-9)
    same = [c for c in rates if c.threads == found.threads]
    assert not [c for c in same if c.max_tokens < found.max_tokens and rates[c] * 1.03 >= max(rates[d] for d in same)]


@given(RATES)
def test_half_survives_and_the_best_of_all_is_the_first(rates: dict[Candidate, float]) -> None:
    left = survivors(rates)
    assert len(left) == len(set(left)) == ceil(len(rates) / 2)
    assert set(left) <= set(rates)
    assert left[0] == best(rates)
    assert best({candidate: rates[candidate] for candidate in left}) in left


@given(st.integers(1, 200))
def test_rounds_end_with_two_that_are_compared(count: int) -> None:
    number = rounds(count)
    for _ in range(number - 1):
        assert count > 2
        count = ceil(count / 2)
    assert count in {1, 2}


@given(st.floats(-100, 1e9), st.integers(1, 1000), st.floats(1e-9, 100))
def test_texts_fit_the_time(seconds: float, visits: int, each: float) -> None:
    count = texts_for(seconds, visits, each)
    assert FEWEST_TEXTS <= count <= MOST_TEXTS
    assert count == FEWEST_TEXTS or count * visits * each <= seconds * (1 + 1e-9)
    assert count == MOST_TEXTS or (count + 1) * visits * each >= seconds * (1 - 1e-9)


def test_texts_for_all_the_time_in_the_world() -> None:
    assert texts_for(float("inf"), 8, 0.1) == texts_for(float("inf"), 8, 0.1, 512) == MOST_TEXTS


def test_texts_fill_several_batches_of_a_large_budget() -> None:
    assert texts_for(float("inf"), 8, 0.1, 131072) == 32768
    assert texts_for(1.0, 10, 0.0001, 131072) == 1000


@given(st.lists(st.text()), st.integers(0, 50), st.integers(0, 5))
def test_mixtures_are_made_of_the_words(texts: list[str], count: int, seed: int) -> None:
    made = mixture(texts, count, seed)
    assert made == mixture(texts, count, seed)
    assert len(made) == count
    words = {word for text in texts for word in text.split()} | {"word"}
    assert {word for text in made for word in text.split()} <= words


def test_mixtures_have_many_lengths() -> None:
    lengths = sorted(len(text.split()) for text in mixture(["one two three"], 256))
    assert lengths[0] <= 3
    assert 20 <= lengths[128] <= 45
    assert 150 <= lengths[-1] <= 400

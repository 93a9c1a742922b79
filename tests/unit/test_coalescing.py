"""Small calls of many threads share batches; nobody gets another's vectors, and nobody waits for ever."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.run import coalescing
from embedrt.run.coalescing import Coalescer, _Ask

Feeds = dict[str, NDArray[np.int64]]
WAIT = 30.0


def feeds(*rows: list[int]) -> Feeds:
    return {"input_ids": np.array(rows), "attention_mask": np.ones((len(rows), len(rows[0])), np.int64)}


class Model:
    """Sums of ids per row; it stands still where a test wants it to, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[Feeds] = []
        self.alone: list[bool] = []
        self.entered, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.still = True
        self.fail: Callable[[Feeds], bool] = lambda _: False

    def __call__(self, batch: Feeds, alone: bool) -> NDArray[np.float32]:
        self.batches.append(batch)
        self.alone.append(alone)
        self.entered.release()
        if self.still:
            assert self.go_on.acquire(timeout=WAIT)
        if self.fail(batch):
            raise RuntimeError("no")
        sums: NDArray[np.float32] = (batch["input_ids"] * batch["attention_mask"]).sum(axis=1).astype(np.float32)
        return sums[:, None]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def coalescer(model: Model, *, slots: int = 1, max_tokens: int = 64, left: bool = False) -> Coalescer:
    return Coalescer(model, slots=slots, max_tokens=max_tokens, run_cost=12, fill={"input_ids": 9}, left=left)


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    turns = threading.Event()
    for _ in range(3000):
        if condition():
            return
        turns.wait(0.01)
    raise AssertionError("it never came")


def start(
    model: Model, threads: ThreadPoolExecutor, coalesce: Coalescer, batches: list[Feeds]
) -> tuple[Any, list[Any]]:
    """A first call that stands still in the model, and others that wait for it in the order given."""
    first = threads.submit(coalesce, feeds([1, 1, 1, 1]))
    assert model.entered.acquire(timeout=WAIT)
    others = []
    for batch in batches:
        others.append(threads.submit(coalesce, batch))
        until(lambda: len(coalesce._waiting) == len(others))
    return first, others


def test_what_waits_goes_together(model: Model, threads: ThreadPoolExecutor) -> None:
    waiting = [feeds([1, 2, 3]), feeds([4, 5, 6, 7], [1, 1, 1, 2]), feeds([8, 9])]
    first, others = start(model, threads, coalescer(model), waiting)
    model.still = False
    model.go_on.release()
    assert first.result(WAIT).tolist() == [[4]]
    assert [other.result(WAIT).tolist() for other in others] == [[[6]], [[22], [5]], [[17]]]
    assert len(model.batches) == 2
    joint = model.batches[1]
    assert joint["input_ids"].tolist() == [[1, 2, 3, 9], [4, 5, 6, 7], [1, 1, 1, 2], [8, 9, 9, 9]]
    assert joint["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]


def test_padding_on_the_left(model: Model, threads: ThreadPoolExecutor) -> None:
    first, others = start(model, threads, coalescer(model, left=True), [feeds([1, 2, 3]), feeds([4, 5])])
    model.still = False
    model.go_on.release()
    assert [call.result(WAIT).tolist() for call in (first, *others)] == [[[4]], [[6]], [[9]]]
    assert model.batches[1]["input_ids"].tolist() == [[1, 2, 3], [9, 4, 5]]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([25, 25, 25, 25, 25], [[4], [25, 25, 25, 25], [25]]),  # 100 tokens are the most
        ([2, 40, 2], [[4], [2, 2], [40]]),  # short texts are not padded to long ones
        ([200, 200], [[4], [200], [200]]),  # what is too long goes alone
    ],
)
def test_batches_are_bounded(
    model: Model, threads: ThreadPoolExecutor, lengths: list[int], batches: list[list[int]]
) -> None:
    waiting = [feeds([1] * length) for length in lengths]
    first, others = start(model, threads, coalescer(model, max_tokens=100), waiting)
    model.still = False
    model.go_on.release()
    assert [call.result(WAIT).item() for call in (first, *others)] == [4, *lengths]
    assert [batch["attention_mask"].sum(axis=1).tolist() for batch in model.batches] == batches


def test_batches_of_several_slots_run_at_once(model: Model, threads: ThreadPoolExecutor) -> None:
    coalesce = coalescer(model, slots=2)
    calls = []
    for ids in ([1], [2]):
        calls.append(threads.submit(coalesce, feeds(ids)))
        assert model.entered.acquire(timeout=WAIT)
    calls += [threads.submit(coalesce, feeds(ids)) for ids in ([3], [4])]
    until(lambda: len(coalesce._waiting) == 2)
    model.go_on.release()  # one of two goes on, and the others come in its place
    assert model.entered.acquire(timeout=WAIT)
    model.go_on.release(2)
    assert [call.result(WAIT).item() for call in calls] == [1, 2, 3, 4]
    assert [len(batch["input_ids"]) for batch in model.batches] == [1, 1, 2]
    assert model.alone == [True, False, False]


def test_a_call_after_a_while_is_alone_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(coalescing, "monotonic", lambda: now)
    coalesce, model.still = coalescer(model, slots=2), False
    coalesce(feeds([1]))
    coalesce._free = 1  # another batch is running
    coalesce(feeds([1]))
    coalesce._free = 2
    coalesce(feeds([1]))
    now += 1
    coalesce(feeds([1]))
    assert model.alone == [True, False, False, True]


def test_the_error_reaches_the_call_that_caused_it(model: Model, threads: ThreadPoolExecutor) -> None:
    model.fail = lambda batch: 7 in batch["input_ids"]
    first, others = start(model, threads, coalescer(model), [feeds([1]), feeds([7]), feeds([2])])
    model.still = False
    model.go_on.release()
    assert first.result(WAIT).item() == 4
    assert others[0].result(WAIT).item() == 1
    with pytest.raises(RuntimeError, match="no"):
        others[1].result(WAIT)
    assert others[2].result(WAIT).item() == 2


class Interrupted(threading.Event):
    """An event whose wait ends with an interrupt, as in a main thread: at once, or when it is set."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once

    def wait(self, timeout: float | None = None) -> bool:
        if not self.at_once:
            super().wait(timeout)
        raise KeyboardInterrupt


@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupted_call_leaves_the_others_alone(
    model: Model, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    coalesce = coalescer(model, max_tokens=4)
    with monkeypatch.context() as patched:
        patched.setattr(coalescing, "_Ask", lambda batch: _Ask(batch, Interrupted(at_once=at_once)))
        first = threads.submit(coalesce, feeds([1, 1, 1, 1]))
        assert model.entered.acquire(timeout=WAIT)
        interrupted = threads.submit(coalesce, feeds([5, 5, 5]))
        until(lambda: interrupted.done() if at_once else len(coalesce._waiting) == 1)
    last = threads.submit(coalesce, feeds([2, 2]))
    until(lambda: len(coalesce._waiting) == (1 if at_once else 2))
    model.still = False
    model.go_on.release()
    assert first.result(WAIT).item() == 4
    with pytest.raises(KeyboardInterrupt):
        interrupted.result(WAIT)
    assert last.result(WAIT).item() == 4
    assert coalesce(feeds([3])).item() == 3
    assert not any(5 in batch["input_ids"] for batch in model.batches)


def test_many_threads_get_their_own_vectors(tiny: Embedder) -> None:
    texts = [f"{'one ' * (i % 7)}two {'cat ' * (i % 5)}river" for i in range(64)]
    alone = {text: tiny.encode(text) for text in texts}
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            for text, vector in zip(texts, pool.map(tiny.encode, texts), strict=True):
                assert np.abs(vector - alone[text]).max() <= 2e-6

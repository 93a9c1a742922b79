"""Small calls of many threads share batches; nobody gets another's vectors, and nobody waits for ever."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder, EngineError
from embedrt.bundle.manifest import Tokenization
from embedrt.engine import Batch
from embedrt.inputs.text import Tokens, flat, offsets_of
from embedrt.run import coalescing
from embedrt.run.coalescing import Coalescer, _Pending

WAIT = 30.0
OUTPUTS = ("sums",)
HOW = Tokenization(pad_id=9, padding_side="right", token_type_ids=False, pooling_mask=False, embedding_rows=10)


class Model:
    """Sums of ids per row; it stands still where a test wants it to, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[Mapping[str, NDArray[np.int64]]] = []
        self.alone: list[bool] = []
        self.outputs: list[Sequence[str]] = []
        self.entered, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.still = True
        self.fail: Callable[[NDArray[np.int64]], bool] = lambda _: False

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        self.batches.append(batch.feeds)
        self.alone.append(batch.alone)
        self.outputs.append(outputs)
        self.entered.release()
        if self.still:
            assert self.go_on.acquire(timeout=WAIT)
        if self.fail(batch.feeds["input_ids"]):
            raise EngineError("no")
        masks = batch.feeds.get("pooling_mask", batch.feeds["attention_mask"])
        sums: NDArray[np.float32] = (batch.feeds["input_ids"] * masks).sum(axis=1).astype(np.float32)
        return dict.fromkeys(outputs, sums[:, None])


@dataclass
class Caller:
    """Calls a coalescer with rows of token ids, as many as are given at a time."""

    coalescer: Coalescer
    max_tokens: int = 64

    def __call__(
        self, *rows: list[int], outputs: Sequence[str] = OUTPUTS, unpooled: int = 0, max_tokens: int | None = None
    ) -> NDArray[np.float32]:
        tokens = Tokens(flat(rows), offsets_of(np.array([len(row) for row in rows], np.int64)), None, [])
        batch, results = self.coalescer.run(
            tokens,
            np.arange(len(rows)),
            max(map(len, rows)),
            outputs,
            unpooled=unpooled,
            max_tokens=max_tokens or self.max_tokens,
        )
        real = batch.feeds["attention_mask"] == 1
        assert [row[is_real].tolist() for row, is_real in zip(batch.feeds["input_ids"], real, strict=True)] == [*rows]
        return results[outputs[0]]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def caller(
    model: Model, *, slots: int = 1, max_tokens: int = 64, left: bool = False, pooling_mask: bool = False
) -> Caller:
    how = replace(HOW, padding_side="left" if left else "right", pooling_mask=pooling_mask)
    return Caller(Coalescer(model, how, slots=slots, run_cost=12), max_tokens)


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    turns = threading.Event()
    for _ in range(3000):
        if condition():
            return
        turns.wait(0.01)
    raise AssertionError("it never came")


def waits(call: Caller, count: int) -> None:
    until(lambda: len(call.coalescer._waiting) == count)


def start(
    model: Model, threads: ThreadPoolExecutor, call: Caller, calls: Sequence[Sequence[list[int]]], **options: Any
) -> tuple[Any, list[Any]]:
    """A first call that stands still in the model, and others that wait for it in the order given."""
    first = threads.submit(call, [1, 1, 1, 1])
    assert model.entered.acquire(timeout=WAIT)
    others = []
    for rows in calls:
        others.append(threads.submit(call, *rows, **options))
        waits(call, len(others))
    return first, others


def test_what_waits_goes_together(model: Model, threads: ThreadPoolExecutor) -> None:
    waiting = [[[1, 2, 3]], [[4, 5, 6, 7], [1, 1, 1, 2]], [[8, 9]]]
    first, others = start(model, threads, caller(model), waiting)
    model.still = False
    model.go_on.release()
    assert first.result(WAIT).tolist() == [[4]]
    assert [other.result(WAIT).tolist() for other in others] == [[[6]], [[22], [5]], [[17]]]
    assert len(model.batches) == 2
    joint = model.batches[1]
    assert joint["input_ids"].tolist() == [[1, 2, 3, 9], [4, 5, 6, 7], [1, 1, 1, 2], [8, 9, 9, 9]]
    assert joint["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]


def test_padding_on_the_left(model: Model, threads: ThreadPoolExecutor) -> None:
    first, others = start(model, threads, caller(model, left=True), [[[1, 2, 3]], [[4, 5]]])
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
    waiting = [[[1] * length] for length in lengths]
    first, others = start(model, threads, caller(model, max_tokens=100), waiting)
    model.still = False
    model.go_on.release()
    assert [one.result(WAIT).item() for one in (first, *others)] == [4, *lengths]
    assert [batch["attention_mask"].sum(axis=1).tolist() for batch in model.batches] == batches


def test_batches_of_several_slots_run_at_once(model: Model, threads: ThreadPoolExecutor) -> None:
    call = caller(model, slots=2)
    calls = []
    for ids in ([1], [2]):
        calls.append(threads.submit(call, ids))
        assert model.entered.acquire(timeout=WAIT)
    calls += [threads.submit(call, ids) for ids in ([3], [4])]
    waits(call, 2)
    model.go_on.release()  # one of two goes on, and the others come in its place
    assert model.entered.acquire(timeout=WAIT)
    model.go_on.release(2)
    assert [one.result(WAIT).item() for one in calls] == [1, 2, 3, 4]
    assert [len(batch["input_ids"]) for batch in model.batches] == [1, 1, 2]
    assert model.alone == [True, False, False]


def test_a_call_after_a_while_is_alone_again(
    model: Model, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(coalescing, "monotonic", lambda: now)
    call = caller(model, slots=2)
    beside = threads.submit(call, [1])
    assert model.entered.acquire(timeout=WAIT)
    model.still = False
    call([1])
    model.go_on.release()
    beside.result(WAIT)
    call([1])
    now += 1
    call([1])
    assert model.alone == [True, False, False, True]


def test_each_call_keeps_to_its_own_budget(model: Model, threads: ThreadPoolExecutor) -> None:
    call = caller(model)
    first, others = start(model, threads, call, [[[1, 1]], [[2, 2]], [[3, 3]]], max_tokens=4)
    others.append(threads.submit(call, [4, 4], max_tokens=8))
    waits(call, 4)
    others.append(threads.submit(call, [5, 5], max_tokens=8))
    waits(call, 5)
    model.still = False
    model.go_on.release()
    assert [one.result(WAIT).item() for one in (first, *others)] == [4, 2, 4, 6, 8, 10]
    assert [len(batch["input_ids"]) for batch in model.batches] == [1, 2, 2, 1]


def test_calls_for_other_outputs_go_alone(model: Model, threads: ThreadPoolExecutor) -> None:
    call = caller(model)
    first, others = start(model, threads, call, [[[1]]])
    others.append(threads.submit(call, [2], outputs=("others",)))
    waits(call, 2)
    others.append(threads.submit(call, [3]))
    waits(call, 3)
    model.still = False
    model.go_on.release()
    assert [one.result(WAIT).item() for one in (first, *others)] == [4, 1, 2, 3]
    assert model.outputs == [OUTPUTS, OUTPUTS, ("others",)]


def test_each_call_leaves_out_its_own_prompt(model: Model, threads: ThreadPoolExecutor) -> None:
    call = caller(model, pooling_mask=True)
    first, others = start(model, threads, call, [[[1, 2, 3], [4, 5, 6]]], unpooled=1)
    others.append(threads.submit(call, [7, 8], unpooled=0))
    waits(call, 2)
    model.still = False
    model.go_on.release()
    assert [one.result(WAIT).tolist() for one in (first, *others)] == [[[4]], [[5], [11]], [[15]]]
    assert len(model.batches) == 2


def test_the_error_reaches_the_call_that_caused_it(model: Model, threads: ThreadPoolExecutor) -> None:
    model.fail = lambda ids: 7 in ids
    first, others = start(model, threads, caller(model), [[[1]], [[7]], [[2]]])
    model.still = False
    model.go_on.release()
    assert first.result(WAIT).item() == 4
    assert others[0].result(WAIT).item() == 1
    with pytest.raises(EngineError, match="no"):
        others[1].result(WAIT)
    assert others[2].result(WAIT).item() == 2


class Interrupted(SimpleQueue[None]):
    """A queue whose `get` ends with an interrupt, as in a main thread: at once, or when there is an item."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once

    def get(self, block: bool = True, timeout: float | None = None) -> None:
        if not self.at_once:
            super().get(block, timeout)
        raise KeyboardInterrupt


@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupted_call_leaves_the_others_alone(
    model: Model, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    def ask(*arguments: Any) -> _Pending:
        made = _Pending(*arguments)
        made.turn = Interrupted(at_once=at_once)
        return made

    call = caller(model, max_tokens=4)
    with monkeypatch.context() as patched:
        patched.setattr(coalescing, "_Pending", ask)
        first = threads.submit(call, [1, 1, 1, 1])
        assert model.entered.acquire(timeout=WAIT)
        interrupted = threads.submit(call, [5, 5, 5])
        until(lambda: interrupted.done() if at_once else len(call.coalescer._waiting) == 1)
    last = threads.submit(call, [2, 2])
    waits(call, 1 if at_once else 2)
    model.still = False
    model.go_on.release()
    assert first.result(WAIT).item() == 4
    with pytest.raises(KeyboardInterrupt):
        interrupted.result(WAIT)
    assert last.result(WAIT).item() == 4
    assert call([3]).item() == 3
    assert not any(5 in batch["input_ids"] for batch in model.batches)


def test_many_threads_get_their_own_vectors(tiny: Embedder) -> None:
    texts = [f"{'one ' * (i % 7)}two {'cat ' * (i % 5)}river" for i in range(64)]
    alone = {text: tiny.encode(text) for text in texts}
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            for text, vector in zip(texts, pool.map(tiny.encode, texts), strict=True):
                assert np.abs(vector - alone[text]).max() <= 2e-6

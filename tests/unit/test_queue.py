"""Requests of many clients share batches; a few texts overtake many, and nobody gets another's vectors."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedrt import Embedder, InferenceError, NonFiniteError, OutOfMemory, TruncationError
from embedrt.engine import Batch, Device
from embedrt.inputs.text import Tokens
from embedrt.run import queue as queue_module
from embedrt.run.queue import LANES, BatchRecord, Job, Outcome, Queue, QueueClosed, QueueFull, _Pool, _window
from embedrt.run.request import Gather, Request
from embedrt.run.runner import Runner
from embedrt.tasks.embed import SentenceVectors, TokenVectors

WAIT = 30.0
DIM = 32
SENTENCES = Request(SentenceVectors(DIM), 64)
WORDS = ["one", "two", "cat", "sat", "dog", "ran", "the"]


class Gate:
    """An engine whose batches wait until a test lets them go; it notes their token ids."""

    def __init__(self, runner: Runner) -> None:
        self._engine = runner.engine
        self.device: Device = runner.engine.device
        self.workers = self.threads = 1
        self.description = runner.engine.description
        self.entered: SimpleQueue[Batch] = SimpleQueue()
        self.go_on = threading.Semaphore(0)
        self.is_open = False
        self.fail: Callable[[Batch], Exception | None] = lambda _: None
        self.spoil: Callable[[Batch], NDArray[np.bool_] | None] = lambda _: None

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Compute a batch, once it may."""
        self.entered.put(batch)
        if not self.is_open:
            assert self.go_on.acquire(timeout=WAIT)
        if (error := self.fail(batch)) is not None:
            raise error
        results = dict(self._engine.run(batch, outputs))
        if (bad := self.spoil(batch)) is not None:
            results = {name: np.where(bad[:, None], np.float32(np.nan), array) for name, array in results.items()}
        return results

    def next(self) -> Batch:
        """Wait for the next batch that comes."""
        return self.entered.get(timeout=WAIT)

    def step(self) -> Batch:
        """Let one batch go, and wait for the next one."""
        self.go_on.release()
        return self.next()

    def open(self) -> None:
        """Let all batches go from here on."""
        self.is_open = True
        self.go_on.release()


class Client:
    """Submits requests, and waits for their outcomes."""

    def __init__(self, queue: Queue, runner: Runner) -> None:
        self.queue = queue
        self.runner = runner

    def submit(self, items: Sequence[str] | Tokens, request: Request = SENTENCES) -> "tuple[Job, SimpleQueue[Outcome]]":
        """Queue a request."""
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        return self.queue.submit(self.runner, items, request, outcomes.put), outcomes

    def run(self, items: Sequence[str] | Tokens, request: Request = SENTENCES) -> Outcome:
        """Queue a request, and wait for its outcome."""
        return self.submit(items, request)[1].get(timeout=WAIT)


@pytest.fixture
def runner(tiny_bundle: Path) -> Runner:
    """A runner of its own."""
    return Embedder(tiny_bundle).runners["default"]


@pytest.fixture
def queue() -> Iterator[Queue]:
    """A queue with two threads."""
    queue = Queue(2)
    yield queue
    queue.close()
    assert queue.join(WAIT)


@pytest.fixture
def held(runner: Runner) -> Iterator[tuple[Client, Gate]]:
    """A queue with one thread, over an engine that waits."""
    gated = copy(runner)
    gate = Gate(runner)
    gated.engine = gate
    queue = Queue(1, most_requests=4, most_texts=1000)
    yield Client(queue, gated), gate
    gate.is_open = True
    gate.go_on.release(1000)
    queue.close()
    assert queue.join(WAIT)


def texts_of(count: int, seed: int = 0, longest: int = 60) -> list[str]:
    """Random texts."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(0, longest))) for _ in range(count)]


def words(count: int) -> str:
    """A text of so many tokens, two special ones included."""
    return " ".join(["one"] * (count - 2))


class TestResults:
    @pytest.mark.parametrize("count", [1, 2, 8, 9, 100, 700])
    def test_vectors_are_those_of_a_run(self, queue: Queue, runner: Runner, count: int) -> None:
        texts = texts_of(count, seed=count)
        outcome = Client(queue, runner).run(texts)
        np.testing.assert_allclose(outcome.get().values, runner.run(texts, SENTENCES).values, atol=1e-6)
        assert outcome.lengths.tolist() == runner.tokens(texts, SENTENCES).lengths.tolist()

    def test_many_clients_at_once(self, queue: Queue, runner: Runner) -> None:
        """Requests of every size, with two kinds of output, all at the same time."""
        client = Client(queue, runner)
        chance = random.Random()
        gathers: list[Gather] = [SentenceVectors(DIM), TokenVectors()]
        requests = [
            (
                texts_of(chance.choice([1, 1, 3, 20, 300]), seed=i),
                Request(chance.choice(gathers), 64),
            )
            for i in range(60)
        ]
        waiting = [client.submit(*request)[1] for request in requests]
        for (texts, request), outcomes in zip(requests, waiting, strict=True):
            got, expected = outcomes.get(timeout=WAIT).get(), runner.run(texts, request)
            assert sorted(got.truncated) == sorted(expected.truncated)
            for one, other in zip(got.values, expected.values, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
        assert [queue.waiting(lane) for lane in LANES] == [(0, 0, 0.0)] * 2

    def test_token_ids(self, queue: Queue, runner: Runner) -> None:
        texts = texts_of(20)
        outcome = Client(queue, runner).run(runner.tokens(texts, SENTENCES))
        np.testing.assert_allclose(outcome.get().values, runner.run(texts, SENTENCES).values, atol=1e-6)

    def test_the_tokens_of_a_prompt_that_is_not_pooled(self, tiny_bundle: Path, queue: Queue) -> None:
        """Requests with different prompts share a batch."""
        runner = Embedder(tiny_bundle).runners["default"]
        client = Client(queue, runner)
        requests = [Request(SentenceVectors(DIM), 64, prompt=prompt) for prompt in ("", "one: ", "two three: ")]
        waiting = [client.submit(["cat sat", "dog"], request)[1] for request in requests * 5]
        for request, outcomes in zip(requests * 5, waiting, strict=True):
            expected = runner.run(["cat sat", "dog"], request).values
            np.testing.assert_allclose(outcomes.get(timeout=WAIT).get().values, expected, atol=1e-6)

    def test_batches_are_recorded(self, runner: Runner) -> None:
        records: list[BatchRecord] = []
        queue = Queue(1, observe=records.append)
        texts = texts_of(100)
        outcome = Client(queue, runner).run(texts)
        queue.close()
        assert queue.join(WAIT)
        assert sum(record.texts for record in records) == 100
        assert sum(record.tokens for record in records) == outcome.lengths.sum()
        assert all(record.tokens <= record.computed <= record.budget for record in records)
        assert {(record.model, record.lane, record.failed) for record in records} == {(runner.name, "bulk", False)}
        # Neighbors by length: much less padding than in the order given.
        assert sum(record.computed for record in records) < 1.15 * outcome.lengths.sum()


class TestLanes:
    def test_a_query_overtakes_bulk_by_one_batch(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        _, bulk = client.submit([words(60)] * 32)  # eight texts a batch
        batches = [gate.next()]
        queries = [client.submit([words(length)])[1] for length in (10, 30, 50)]
        batches += [gate.step() for _ in range(6)]
        # Batches are half as large once there are queries.
        assert [batch.shape for batch in batches] == [(8, 60), (1, 10), (4, 60), (1, 30), (4, 60), (1, 50), (4, 60)]
        gate.open()
        for outcomes in (bulk, *queries):
            assert outcomes.get(timeout=WAIT).failure is None

    def test_batches_grow_again_without_queries(
        self, held: tuple[Client, Gate], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue_module, "_BATCHES_AFTER_QUERY", 2)
        client, gate = held
        query = client.submit([words(10)])[1]
        gate.next()
        _, bulk = client.submit([words(60)] * 24)
        assert [gate.step().shape for _ in range(4)] == [(4, 60), (4, 60), (8, 60), (8, 60)]
        gate.open()
        for outcomes in (query, bulk):
            assert outcomes.get(timeout=WAIT).failure is None

    def test_queries_share_a_batch(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        first = client.submit([words(10)])[1]
        gate.next()
        others = [client.submit([words(length)])[1] for length in (12, 13, 14)]
        assert gate.step().shape == (3, 14)
        gate.open()
        for outcomes in (first, *others):
            assert outcomes.get(timeout=WAIT).failure is None

    def test_bulk_requests_take_turns(self, held: tuple[Client, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
        """A request of some texts does not wait for all of another's many."""
        monkeypatch.setattr(queue_module, "_PORTION", 10)
        monkeypatch.setattr(queue_module, "_AHEAD", 1)
        client, gate = held
        _, many = client.submit([words(50)] * 400)
        gate.next()
        _, few = client.submit([words(50)] * 20)
        gate.is_open = True
        gate.go_on.release()
        assert few.get(timeout=WAIT).failure is None
        assert many.empty()
        assert many.get(timeout=WAIT).failure is None

    def test_a_batch_alone_has_all_threads(self, runner: Runner, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        alone: list[bool] = []
        run = runner.engine.run

        def note(batch: Batch, outputs: Sequence[str]) -> Any:
            alone.append(batch.alone)
            return run(batch, outputs)

        monkeypatch.setattr(runner.engine, "run", note)
        client = Client(queue, runner)
        client.run(["one"])
        assert alone == [True]
        client.run([words(60)] * 200)
        assert alone.count(True) <= 2

    @pytest.mark.parametrize(
        ("budget", "items", "lane"),
        [
            (512, ["one"] * 8, "query"),
            (512, ["one"] * 9, "bulk"),
            (512, ["x" * 2048], "query"),
            (512, ["x" * 2049], "bulk"),
            (512, [("x" * 1000, "x" * 1049)], "bulk"),
            (65536, ["x" * 8192], "query"),
            (65536, ["x" * 8193], "bulk"),
        ],
    )
    def test_what_is_a_query(self, runner: Runner, budget: int, items: list[Any], lane: str) -> None:
        assert queue_module._lane(runner.with_max_tokens(budget), items) == lane


class TestBounds:
    def test_exactly_what_does_not_fit_is_refused(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        waiting = [client.submit(["one"])[1] for _ in range(4)]
        for _ in range(2):
            with pytest.raises(QueueFull, match="4 requests with") as refused:
                client.submit(["one"])
            assert 1 <= refused.value.retry_after <= 120
        bulk = client.submit(["one"] * 100)[1]  # a lane of its own
        gate.open()
        for outcomes in (*waiting, bulk):
            assert outcomes.get(timeout=WAIT).failure is None
        assert client.run(["one"]).failure is None

    def test_texts_are_counted(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        _, first = client.submit(["one"] * 900)
        with pytest.raises(QueueFull):
            client.submit(["one"] * 400)
        gate.open()
        assert first.get(timeout=WAIT).failure is None
        assert client.run(["one"] * 900).failure is None

    def test_a_canceled_request_is_not_computed(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        client.submit([words(10)])
        gate.next()
        jobs = [client.submit([words(50)] * 30), client.submit([words(20)])]
        for job, _ in jobs:
            client.queue.cancel(job)
        _, last = client.submit([words(30)])
        assert gate.step().shape == (1, 30)
        gate.open()
        assert last.get(timeout=WAIT).failure is None
        assert all(outcomes.empty() for _, outcomes in jobs)
        assert [client.queue.waiting(lane)[:2] for lane in LANES] == [(0, 0)] * 2

    def test_a_running_request_can_be_canceled(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        job, outcomes = client.submit([words(60)] * 20)
        gate.next()
        client.queue.cancel(job)
        client.queue.cancel(job)
        _, last = client.submit([words(30)])
        assert gate.step().shape == (1, 30)
        gate.open()
        assert last.get(timeout=WAIT).failure is None
        assert outcomes.empty()

    def test_what_was_accepted_is_finished(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        waiting = [client.submit([words(60)] * 20)[1], client.submit(["one"])[1]]
        gate.next()
        client.queue.close()
        with pytest.raises(QueueClosed):
            client.submit(["one"])
        gate.open()
        for outcomes in waiting:
            assert outcomes.get(timeout=WAIT).failure is None
        assert client.queue.join(WAIT)
        assert not client.queue.is_alive

    def test_pools_are_freed(self, queue: Queue, runner: Runner) -> None:
        """A model that was replaced goes with its last request."""
        client = Client(queue, runner)
        client.run(texts_of(50))
        client.run(["one"])
        assert queue._pools == {}


class TestFailures:
    def test_nan_fails_the_request_that_has_it(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        gate.spoil = lambda batch: (batch.feeds["attention_mask"].sum(1) == 13) if batch.shape[0] == 3 else None
        first = client.submit([words(40)])[1]
        gate.next()
        waiting = [client.submit([words(length)])[1] for length in (12, 13, 14)]
        assert gate.step().shape[0] == 3
        gate.open()
        outcomes = [one.get(timeout=WAIT) for one in (first, *waiting)]
        assert [type(outcome.failure) for outcome in outcomes] == [type(None), type(None), NonFiniteError, type(None)]

    def test_a_failing_batch_is_computed_request_by_request(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        gate.fail = lambda batch: InferenceError("no") if 13 in batch.feeds["attention_mask"].sum(1) else None
        first = client.submit([words(40)])[1]
        gate.next()
        waiting = [client.submit([words(length)])[1] for length in (12, 13, 14)]
        gate.open()
        outcomes = [one.get(timeout=WAIT) for one in (first, *waiting)]
        assert [outcome.failure is None for outcome in outcomes] == [True, True, False, True]
        with pytest.raises(InferenceError, match="no"):
            outcomes[2].get()

    def test_an_unexpected_failure_reaches_the_clients(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        gate.fail = lambda batch: KeyError("x") if 13 in batch.feeds["attention_mask"].sum(1) else None
        gate.open()
        assert isinstance(client.run([words(13)]).failure, KeyError)
        assert client.run([words(12)]).failure is None
        assert client.queue.is_alive

    def test_a_batch_that_does_not_fit_is_halved(self, held: tuple[Client, Gate], runner: Runner) -> None:
        client, gate = held
        limit = 100
        gate.fail = lambda batch: OutOfMemory("full") if batch.tokens > limit else None
        gate.is_open = True
        texts = [words(40)] * 12
        np.testing.assert_allclose(client.run(texts).get().values, runner.run(texts, SENTENCES).values, atol=1e-6)
        assert client.runner.token_budget <= 240
        limit = 50
        failure = client.run([words(4), words(60)]).failure
        assert isinstance(failure, OutOfMemory)
        assert str(failure).startswith("texts[1]: ")

    def test_later_batches_of_several_requests_are_smaller(self, held: tuple[Client, Gate]) -> None:
        client, gate = held
        gate.fail = lambda batch: OutOfMemory("full") if batch.shape[0] == 3 else None
        first = client.submit([words(40)])[1]
        gate.next()
        waiting = [client.submit([words(length)])[1] for length in (12, 13, 14)]
        gate.open()
        assert [one.get(timeout=WAIT).failure for one in (first, *waiting)] == [None] * 4
        assert client.runner.token_budget == 3 * 14 // 2

    @pytest.mark.parametrize("count", [2, 700])
    def test_a_truncated_text_is_found_before_the_model_runs(self, held: tuple[Client, Gate], count: int) -> None:
        client, gate = held
        texts = ["one"] * count
        texts[-1] = words(300)
        request = Request(SentenceVectors(DIM), 64, forbid_truncation=True)
        with pytest.raises(TruncationError, match=rf"texts\[{count - 1}\]: longer than the 64 tokens"):
            client.run(texts, request).get()
        assert gate.entered.empty()
        assert [client.queue.waiting(lane)[:2] for lane in LANES] == [(0, 0)] * 2

    def test_truncated_texts_are_listed(self, queue: Queue, runner: Runner) -> None:
        texts = texts_of(600, longest=5)
        texts[3] = texts[555] = words(300)
        assert sorted(Client(queue, runner).run(texts).get().truncated) == [3, 555]


def test_sessions_are_made_before_the_first_request(tiny_bundle: Path) -> None:
    """One batch alone, and batches side by side, have a session each, and each takes a moment to make."""
    runner = Embedder(tiny_bundle, threads=2).runners["default"]
    engine: Any = runner.engine
    before = {*engine._sessions}
    runner.warm_up(["one"], SENTENCES)
    made = {*engine._sessions}
    assert len(made) == 2 > len(before)
    runner.run(texts_of(300), SENTENCES)
    runner.run(["one"], SENTENCES)
    assert {*engine._sessions} == made


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=80).map(sorted),
    st.integers(0, 79),
    st.integers(50, 600),
    st.integers(0, 40),
    st.booleans(),
)
def test_a_window_has_its_text_and_neighbors_within_the_budget(
    lengths: list[int], at: int, budget: int, run_cost: int, packed: bool
) -> None:
    at %= len(lengths)
    engine = type("Engine", (), {"device": type("Device", (), {"run_cost": run_cost})})
    runner: Any = type("Runner", (), {"is_packed": packed, "engine": engine})
    entries: Any = [(length, number, None, 0) for number, length in enumerate(lengths)]
    start, end, computed = _window(_Pool(runner, (), entries), at, budget)
    assert 0 <= start <= at < end <= len(lengths)
    taken = lengths[start:end]
    assert computed == (sum(taken) if packed else len(taken) * max(taken))
    assert computed <= budget or len(taken) == 1
    if not packed:
        assert computed - sum(taken) <= run_cost * (len(taken) - 1)
    # Nothing that would cost nothing is left.
    if not packed and end < len(lengths) and lengths[end] == max(taken):
        assert computed + max(taken) > budget

"""A batch that does not fit into memory is halved until it does: nothing is lost, and the budget stays smaller."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder, EngineError
from embedrt.engine import Batch
from embedrt.errors import OutOfMemory
from embedrt.run.budget import Budget
from embedrt.run.request import Request
from embedrt.run.runner import Runner
from embedrt.tasks.embed import SentenceVectors, TokenVectors

WAIT = 30.0
SENTENCES = Request(SentenceVectors(32), 48, batch_size=1000)
TOKENS = Request(TokenVectors(), 48, batch_size=1000)
# Texts of 3 to 22 tokens, in no order.
TEXTS = [f"{'one two cat ' * (i * 7 % 20)}{i}" for i in range(400)]


class Short:
    """An engine's `run` with memory for a number of tokens; it notes the sizes of its batches."""

    def __init__(self, runner: Runner, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        self.tokens = tokens
        self.fits: list[int] = []
        self.fails: list[int] = []
        self._run = runner.engine.run
        monkeypatch.setattr(runner.engine, "run", self.run)

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        fits = batch.tokens <= self.tokens
        (self.fits if fits else self.fails).append(batch.tokens)
        if not fits:
            raise OutOfMemory(f"out of memory at {batch.tokens} tokens")
        return self._run(batch, outputs)


@pytest.fixture
def embedder(tiny_bundle: Path) -> Embedder:
    """One of the test's own, with two threads and a large budget."""
    return Embedder(tiny_bundle, threads=2, max_tokens=2048)


@pytest.fixture
def runner(embedder: Embedder) -> Runner:
    return embedder.runners["default"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"embedrt"}
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


def test_all_vectors_in_their_rows(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = runner.run(TEXTS, SENTENCES).values
    short = Short(runner, monkeypatch, 300)
    done: list[int] = []
    values = runner.run(TEXTS, SENTENCES, advance=done.append).values
    np.testing.assert_allclose(values, expected, atol=2e-6)
    assert sum(done) == len(TEXTS)
    assert short.fails
    assert len(warnings(caplog)) == 3
    for budget, message in zip((1024, 512, 256), warnings(caplog), strict=True):
        assert f"batches have at most {budget} tokens" in message
    assert "memory of 'cpu'" in warnings(caplog)[0]


def test_the_budget_stays_smaller(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = Short(runner, monkeypatch, 300)
    runner.run(TEXTS, SENTENCES)
    short.fails.clear()
    caplog.clear()
    runner.run(TEXTS, SENTENCES)
    runner.with_max_seq_length(30).run(TEXTS, SENTENCES)
    assert not short.fails
    assert max(short.fits) <= 300
    assert not caplog.records
    assert runner.placement.max_tokens == 2048  # what was asked for


def test_another_budget_begins_anew(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Short(runner, monkeypatch, 300)
    other = runner.with_max_tokens(1024)
    other.run(TEXTS, SENTENCES)
    assert (runner._budget.tokens, other._budget.tokens) == (2048, 256)
    assert short.fails


def test_token_embeddings(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = runner.run(TEXTS, TOKENS).values
    Short(runner, monkeypatch, 200)
    for one, other in zip(runner.run(TEXTS, TOKENS).values, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_text_that_does_not_fit(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Short(runner, monkeypatch, 10)
    texts = ["one"] * 70 + ["one two cat " * 4, "two"]
    message = r"texts\[70\]: expected a text that fits into the memory of 'cpu', got 14 tokens; use a smaller max_seq_"
    with pytest.raises(OutOfMemory, match=message) as caught:
        runner.run(texts, SENTENCES)
    assert str(caught.value.__cause__) == "out of memory at 14 tokens"
    assert runner._budget.tokens >= 14
    with pytest.raises(OutOfMemory, match=r"texts\[7\]: expected"):
        runner.run(["one two cat " * 4], SENTENCES, indexes=[7])
    short.fails.clear()
    assert runner.run(["one", "two"], SENTENCES).values.shape == (2, 32)


def test_other_failures_are_not_tried_again(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def fail(batch: Batch, _: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        runs.append(batch.tokens)
        raise EngineError("no")

    monkeypatch.setattr(runner.engine, "run", fail)
    with pytest.raises(EngineError, match=r"^no$"):
        runner.run(["one", "two"], SENTENCES)
    assert len(runs) == 1
    assert runner._budget.tokens == 2048
    assert not caplog.records


def test_many_threads(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small calls that share batches, beside large ones that are halved."""
    work = [TEXTS[i : i + (200 if i % 3 else 9)] for i in range(24)]
    expected = [runner.run(texts, SENTENCES).values for texts in work]
    Short(runner, monkeypatch, 150)
    with ThreadPoolExecutor(12) as pool:
        for values, one in zip(
            pool.map(lambda texts: runner.run(texts, SENTENCES).values, work), expected, strict=True
        ):
            np.testing.assert_allclose(values, one, atol=2e-6)


class TestJointBatches:
    """Calls that wait share a batch; if that is too large, each runs alone, and later ones share less."""

    def join(self, runner: Runner, short: Short, monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.float32]]:
        """Eight calls of 12 tokens that wait for four others, which stand still meanwhile."""
        go_on, entered = threading.Semaphore(0), threading.Semaphore(0)
        run: Callable[[Batch, Sequence[str]], Mapping[str, NDArray[np.float32]]] = short.run

        def still(batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
            if batch.tokens == 3:
                entered.release()
                assert go_on.acquire(timeout=WAIT)
            return run(batch, outputs)

        monkeypatch.setattr(runner.engine, "run", still)
        turns = threading.Event()
        with ThreadPoolExecutor(12) as pool:
            first = [pool.submit(runner.run, ["one"], SENTENCES) for _ in range(4)]
            assert all(entered.acquire(timeout=WAIT) for _ in first)
            calls = [pool.submit(runner.run, [f"{'one ' * 9}{i}"], SENTENCES) for i in range(8)]
            for _ in range(3000):
                if len(runner._coalescer._waiting) == len(calls):
                    break
                turns.wait(0.01)
            go_on.release()  # one goes on, and its slot is for the first that waits, which takes the others along
            values = [call.result(WAIT).values for call in calls]
            go_on.release(len(first))
            return values

    def test_each_gets_its_own(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = [runner.run([f"{'one ' * 9}{i}"], SENTENCES).values for i in range(8)]
        short = Short(runner, monkeypatch, 60)
        for values, one in zip(self.join(runner, short, monkeypatch), expected, strict=True):
            np.testing.assert_allclose(values, one, atol=2e-6)
        assert short.fails == [8 * 12]
        assert runner._budget.tokens == 2048  # no batch of one call was too large
        short.fits.clear()
        self.join(runner, short, monkeypatch)
        assert short.fails == [8 * 12]
        assert max(short.fits) == 4 * 12


def test_a_budget_is_lowered_once(caplog: pytest.LogCaptureFixture) -> None:
    budget = Budget(1000)
    for tokens in (500, 500, 700, 250):
        budget.lower(tokens, "cuda:1")
    assert budget.tokens == 250
    assert len(warnings(caplog)) == 2
    assert warnings(caplog)[0] == (
        "a batch did not fit into the memory of 'cuda:1'; batches have at most 500 tokens from here on (`max_tokens` "
        "sets the number)"
    )

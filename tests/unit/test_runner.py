"""`Runner`: how short the way to the engine is, and what its calls share."""

import pickle
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from threading import Barrier
from types import FrameType
from typing import Any

import numpy as np
import onnxruntime
import pytest

import embedrt
from embedrt import Embedder
from embedrt.bundle.manifest import Packing
from embedrt.engine import Batch
from embedrt.inputs.text import Side, TextTokenizer
from embedrt.run import runner as runner_module
from embedrt.run.request import Request
from embedrt.run.runner import Runner
from embedrt.tasks.embed import AllFeatures, SentenceVectors, TokenVectors

WAIT = 30.0
OURS = str(Path(embedrt.__file__).parent)
ENGINE = str(Path(onnxruntime.__file__).parent)
SENTENCES = Request(SentenceVectors(32), 48)
# More tokens than fit one batch.
MANY = ["one two three"] * 300


@pytest.fixture
def runner(tiny_bundle: Path) -> Runner:
    """A runner of the test's own, whose engine has one thread."""
    return Embedder(tiny_bundle, threads=1).runners["default"]


def frames_to_the_engine(call: Any) -> list[list[str]]:
    """The functions of embedrt that are on the stack whenever ONNX Runtime's `run` begins, innermost first."""
    found: list[list[str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or code.co_name != "run" or not code.co_filename.startswith(ENGINE):
            return
        names, caller = [], frame.f_back
        while caller is not None:
            if caller.f_code.co_filename.startswith(OURS):
                names.append(caller.f_code.co_name)
            caller = caller.f_back
        found.append(names)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


class TestTheWay:
    @pytest.mark.parametrize("texts", ["one cat", ["one cat", "two dogs"]])
    def test_from_encode_to_the_engine_is_seven_frames_at_most(self, tiny: Embedder, texts: Any) -> None:
        (names,) = frames_to_the_engine(lambda: tiny.encode(texts))
        assert names[-1] == "encode"
        assert len(names) <= 7

    @pytest.mark.parametrize("texts", [[], ["one cat"], ["one cat", "two dogs " * 20]])
    def test_a_call_that_fits_one_batch_starts_no_threads(
        self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch, texts: list[str]
    ) -> None:
        def none(*_: object, **__: object) -> None:
            raise AssertionError("threads were started")

        monkeypatch.setattr(runner_module, "Team", none)
        assert tiny.encode(texts).shape == (len(texts), 32)
        with pytest.raises(AssertionError, match="threads were started"):
            tiny.encode(MANY)

    def test_token_ids_are_computed_as_their_texts(self, runner: Runner) -> None:
        for texts in (["one cat"], MANY):
            by_ids = runner.run(runner.tokenize(texts), SENTENCES, indexes=range(len(texts)))
            np.testing.assert_array_equal(by_ids.values, runner.run(texts, SENTENCES).values)

    def test_late_chunking_reads_its_text_once(self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny.encode_chunks("one cat", [(0, 3)])  # has the tokenizer loaded
        read, seen = TextTokenizer.with_spans, []

        def note(self: TextTokenizer, text: str) -> Any:
            seen.append(text)
            return read(self, text)

        monkeypatch.setattr(TextTokenizer, "with_spans", note)
        monkeypatch.setattr(TextTokenizer, "__call__", lambda _, texts: seen.extend(texts))
        assert tiny.encode_chunks("one cat", [(0, 3)]).shape == (1, 32)
        assert seen == ["one cat"]


class Still:
    """An engine's `run` that stands still until it is let go, and notes the shapes of its batches."""

    def __init__(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.entered, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self._run = runner.engine.run
        monkeypatch.setattr(runner.engine, "run", self.run)

    def run(self, batch: Batch, outputs: Sequence[str]) -> Any:
        self.shapes.append(batch.shape)
        self.entered.release()
        assert self.go_on.acquire(timeout=WAIT)
        return self._run(batch, outputs)


class TestBudget:
    @pytest.fixture
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(8) as pool:
            yield pool

    def test_another_budget_over_the_same_engine(self, runner: Runner) -> None:
        other = runner.with_max_tokens(8)
        assert (other.placement.max_tokens, other.engine) == (8, runner.engine)
        assert runner.placement.max_tokens == 512
        np.testing.assert_allclose(other.run(MANY, SENTENCES).values, runner.run(MANY, SENTENCES).values, atol=2e-6)

    def test_it_cannot_be_changed(self, runner: Runner) -> None:
        with pytest.raises(AttributeError):
            runner.placement.max_tokens = 8  # type: ignore[misc]

    @pytest.mark.parametrize(("budget", "joint"), [(512, [(3, 4)]), (8, [(1, 4), (2, 4)]), (4, [(1, 4)] * 3)])
    def test_small_calls_of_many_threads_keep_to_it(
        self,
        runner: Runner,
        threads: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
        budget: int,
        joint: list[tuple[int, int]],
    ) -> None:
        still, limited = Still(runner, monkeypatch), runner.with_max_tokens(budget)
        calls = []
        for _ in range(2):  # as many as the engine takes at a time
            calls.append(threads.submit(runner.run, ["one"], SENTENCES))
            assert still.entered.acquire(timeout=WAIT)
        calls += [threads.submit(limited.run, ["one cat"], SENTENCES) for _ in range(3)]
        turns = threading.Event()
        for _ in range(3000):
            if len(runner._coalescer._waiting) == 3:
                break
            turns.wait(0.01)
        still.go_on.release()
        assert still.entered.acquire(timeout=WAIT)  # one call takes along all that fit
        still.go_on.release(9)
        vectors = np.concatenate([call.result(WAIT).values for call in calls])
        assert np.abs(vectors[2:] - runner.run(["one cat"], SENTENCES).values).max() <= 2e-6
        assert sorted(still.shapes[2:-1]) == joint


class TestSlices:
    """The texts that are planned together: "one" has 3 tokens, with the special ones."""

    @pytest.mark.parametrize(
        ("budget", "texts", "starts"),
        [
            (512, ["one"] * 9, [0, 4, 8]),
            (4095, ["one"] * 9, [0, 4, 8]),
            (8192, ["one"] * 9, [0, 8]),
            (16384, ["one"] * 40, [0, 16, 32]),
        ],
    )
    def test_a_larger_budget_takes_more_texts(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch, budget: int, texts: list[str], starts: list[int]
    ) -> None:
        monkeypatch.setattr(runner_module, "_SLICE", 4)
        limited = runner.with_max_tokens(budget)
        slices = list(limited._slices(texts, limited.begin(texts, SENTENCES, None)))
        assert [part.start for part in slices] == starts
        assert sum(len(part.tokens) for part in slices) == len(texts)

    @pytest.mark.parametrize(
        ("texts", "starts"),
        [(1023, [0]), (1024, [0, 256, 768]), (2100, [0, 256, 768, 1792]), (4000, [0, 256, 768, 1792])],
    )
    def test_a_call_of_many_texts_starts_with_few(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch, texts: int, starts: list[int]
    ) -> None:
        """So that the engine need not wait for the tokens of all."""
        monkeypatch.setattr(runner_module, "_CHARACTERS_PER_WORKER", len("one"))
        monkeypatch.setattr(runner_module, "_CHARACTERS_PER_TOKEN", 0)
        found = list(runner._slices(["one"] * texts, runner.begin(["one"] * texts, SENTENCES, None)))
        assert [part.start for part in found][: len(starts)] == starts
        assert sum(len(part.tokens) for part in found) == texts

    def test_only_the_last_slice_is_shared_by_the_workers(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others follow on the heels of the rest, and small batches would cost more than they bring."""
        monkeypatch.setattr(runner_module, "_CHARACTERS_PER_WORKER", len("one"))
        monkeypatch.setattr(runner_module, "_CHARACTERS_PER_TOKEN", 0)
        sharing = Embedder(tiny_bundle, threads=64).runners["default"]
        texts = ["one"] * 1024
        first, *_, last = sharing._slices(texts, sharing.begin(texts, SENTENCES, None))
        assert max(len(batch.rows) for batch in first.batches) == 512 // 3
        assert max(len(batch.rows) for batch in last.batches) * 3 <= 128

    def test_texts_that_fill_several_batches_are_enough(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner_module, "_SLICE", 1000)
        monkeypatch.setattr(runner_module, "_CHARACTERS_PER_TOKEN", 16)
        limited = runner.with_max_tokens(8192)
        texts = ["one " * 46] * 1500
        slices = list(limited._slices(texts, limited.begin(texts, SENTENCES, None)))
        tokens = [len(part.tokens.ids) for part in slices]
        assert len(slices) == 2
        assert 4 * 8192 <= 1000 * 48 <= tokens[0] < 1500 * 48

    def test_the_next_texts_are_tokenized_while_a_slice_is_handled(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner_module, "_SLICE", 4)
        encode, begun, threads = runner.tokenize._encode, threading.Semaphore(0), set()

        def note(texts: list[str]) -> list[Any]:
            begun.release()
            threads.add(threading.get_ident())
            return encode(texts)

        monkeypatch.setattr(runner.tokenize, "_encode", note)
        slices = runner._slices(["one"] * 16, runner.begin(["one"] * 16, SENTENCES, None))
        for following in (2, 1, 1, 0):  # portions that begin by the time that this slice is handled
            next(slices)
            for _ in range(following):
                assert begun.acquire(timeout=WAIT)
        assert list(slices) == []
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    @pytest.mark.parametrize(
        ("threads", "budget", "most"),
        [(1, 1, 1 << 14), (2, 1, 1 << 14), (2, 512, 1 << 14), (2, 8192, 1 << 18), (8, 512, 1 << 16)],
    )
    def test_a_small_budget_has_few_characters_in_the_tokenizer(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, threads: int, budget: int, most: int
    ) -> None:
        """The tokenizer keeps some hundred bytes for each, of the texts at hand and of the next ones."""
        runner = Embedder(tiny_bundle, threads=threads).runners["default"]
        encode, sizes = runner.tokenize._encode, []

        def note(texts: list[str]) -> list[Any]:
            sizes.append(sum(map(len, texts)))
            return encode(texts)

        monkeypatch.setattr(runner.tokenize, "_encode", note)
        limited = runner.with_max_tokens(budget)
        texts = ["one " * 40] * 2000
        slices = list(limited._slices(texts, limited.begin(texts, SENTENCES, None)))
        assert sum(len(part.tokens) for part in slices) == 2000
        assert most - 160 <= max(sizes) <= most

    def test_packed_batches_are_planned_by_their_tokens(self, runner: Runner) -> None:
        texts = ["one " * (i % 40) for i in range(300)]
        packed = copy(runner)
        packed._packing = Packing((), None, 1, None)
        (part,) = packed._slices(texts, packed.begin(texts, SENTENCES, None))
        lengths = part.tokens.lengths
        totals = [int(lengths[batch.rows].sum()) for batch in part.batches]
        assert max(totals) <= 512
        assert len(totals) <= -(-sum(totals) // (512 - 41))
        assert max(len(batch.rows) for batch in part.batches) > 32
        (alone,) = packed._slices(["one"] * 170, packed.begin(["one"] * 170, SENTENCES, None))
        assert (alone.is_small, len(alone.batches)) == (True, 1)


class TestTokenizers:
    def test_each_length_is_loaded_once_by_many_threads(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        load, loaded, together = runner._load_tokenizer, [], Barrier(8)

        def note(max_seq_length: int | None, side: Side) -> TextTokenizer:
            loaded.append(max_seq_length)
            return load(max_seq_length, side)

        monkeypatch.setattr(runner, "_load_tokenizer", note)

        def ask(number: int) -> TextTokenizer:
            together.wait(WAIT)
            return runner.tokenizer(20 + number % 2)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, range(8)))
        assert [found[number].max_seq_length for number in range(2)] == [20, 21]
        assert all(found[number] is found[number % 2] for number in range(8))
        assert len(loaded) == 2
        assert set(loaded) == {20, 21}

    def test_the_last_two_lengths_are_kept(self, runner: Runner) -> None:
        first, second = runner.tokenizer(20), runner.tokenizer(None)
        assert runner.tokenizer(20) is first
        third = runner.tokenizer(21)
        assert runner.tokenizer(None) is second
        assert runner.tokenizer(21) is third
        assert runner.tokenizer(20) is not first
        assert runner.tokenizer(48) is runner.tokenize


@pytest.mark.parametrize("gather", [SentenceVectors(3, normalize=True), TokenVectors(), AllFeatures(3)])
def test_a_request_goes_to_other_processes(runner: Runner, gather: Any) -> None:
    request = Request(gather, 20, prompt="one ", batch_size=7, forbid_truncation=True)
    copied = pickle.loads(pickle.dumps(request))
    assert copied == request
    ours, theirs = (runner.run(["cat", "two dogs"], one).values for one in (request, copied))
    assert len(ours) == len(theirs) == 2

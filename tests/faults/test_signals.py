"""Signal handlers that raise, at random moments: their exception comes out unchanged, and nobody else notices."""

import ctypes
import gc
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import Embedder
from embedrt.run import threads as team

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timers")

# An interrupt between the opening of a file and its `with` block.
OPEN_FILES = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
WAIT = 60.0
TEXTS = [f"{'one ' * (i % 7)}two {'cat ' * (i % 5)}river" for i in range(12)]
LIST = [f"{'one two ' * (i % 40)} {i}" for i in range(300)]


class DeadlineError(Exception):
    """An exception of the caller's own."""

    def __init__(self) -> None:
        super().__init__("the deadline has passed")


class StopError(BaseException):
    """Another, which is no `Exception`."""


class Alarm:
    """A timer whose handler raises, once for every start."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def start(self, seconds: float, error: BaseException) -> None:
        self.error = error
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))

    def ring(self, *_: object) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    """A timer whose exceptions are not lost in the destructors of what earlier tests have left to the collector."""
    made = Alarm()
    gc.collect()
    gc.disable()
    before = signal.signal(signal.SIGALRM, made.ring)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.enable()


def repeat(action: Callable[[], Any], alarm: Alarm, seconds: float, error: BaseException) -> BaseException:
    """Repeat an action until something comes out of it."""
    try:
        alarm.start(random.uniform(0, seconds), error)
        deadline = monotonic() + WAIT
        while monotonic() < deadline:
            action()
    except BaseException as caught:  # noqa: BLE001 - the test compares it
        return caught
    raise AssertionError("the exception was lost")


def until(condition: Callable[[], bool]) -> None:
    turns = threading.Event()
    for _ in range(int(WAIT / 0.01)):
        if condition():
            return
        turns.wait(0.01)
    raise AssertionError("it never came")


class Beside:
    """Threads that encode single texts until they are told to stop."""

    def __init__(self, model: Embedder, count: int) -> None:
        self.expected = [model.encode(text) for text in TEXTS]
        self.errors: list[BaseException] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._encode, args=(model,), daemon=True) for _ in range(count)]

    def _encode(self, model: Embedder) -> None:
        try:
            while not self.stop.is_set():
                self.encode_one(model)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.errors.append(error)

    def encode_one(self, model: Embedder) -> None:
        i = random.randrange(len(TEXTS))
        assert np.abs(model.encode(TEXTS[i]) - self.expected[i]).max() <= 2e-6

    def __enter__(self) -> "Beside":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(WAIT)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.errors == []


@pytest.mark.slow
def test_interrupts_beside_threads_that_encode(tiny_bundle: Path, alarm: Alarm) -> None:
    model = Embedder(tiny_bundle, threads=2)
    with Beside(model, 6) as beside:
        for _ in range(2000):
            error = KeyboardInterrupt()
            assert repeat(lambda: beside.encode_one(model), alarm, 0.004, error) is error
    coalescer = model.runners["default"]._coalescer
    beside.encode_one(model)
    coalescer._locked(coalescer._mend, None)
    assert (coalescer._running, coalescer._waiting) == ({}, {})


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (DeadlineError, ()),
        (StopError, ()),
        (TimeoutError, ()),
        (KeyboardInterrupt, ()),
        (RuntimeError, ("late",)),
        (ValueError, ("late",)),
    ],
)
@pytest.mark.parametrize("texts", ["one cat", LIST], ids=["text", "list"])
def test_deadlines_come_out_unchanged(
    tiny_bundle: Path, alarm: Alarm, kind: type[BaseException], arguments: tuple[Any, ...], texts: Any
) -> None:
    model = Embedder(tiny_bundle, threads=2)
    expected = model.encode(texts)
    for _ in range(40):
        error = kind(*arguments)
        caught = repeat(lambda: model.encode(texts), alarm, 0.002 if texts == "one cat" else 0.03, error)
        assert caught is error
        assert (error.__cause__, error.__context__) == (None, None)
        np.testing.assert_allclose(model.encode(texts), expected, rtol=0, atol=2e-6)
    until(lambda: not any(top.f_code.co_filename == team.__file__ for top in sys._current_frames().values()))


@OPEN_FILES
@pytest.mark.parametrize("kind", [DeadlineError, KeyboardInterrupt])
def test_deadlines_while_a_model_loads(tiny_bundle: Path, alarm: Alarm, kind: type[BaseException]) -> None:
    models = []  # an exception in a destructor would be lost

    def load() -> None:
        models.append(Embedder(tiny_bundle, threads=1))
        models[-1].encode("one cat")

    load()
    for _ in range(100):
        error = kind()
        assert repeat(load, alarm, 0.01, error) is error
    load()


def test_a_handler_may_encode(tiny_bundle: Path, alarm: Alarm, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Embedder(tiny_bundle, threads=1)
    expected = model.encode(TEXTS[1])
    model.close()
    seen = []

    def encode(*_: object) -> None:
        seen.append(model.encode(TEXTS[1]))

    signal.signal(signal.SIGALRM, encode)
    for i in range(50):
        model = Embedder(tiny_bundle, threads=1)  # the handler may come while a session is made
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 0.01))
        while len(seen) == i:
            np.testing.assert_allclose(model.encode(TEXTS[1]), expected, rtol=0, atol=2e-6)
    assert all(np.abs(vector - expected).max() <= 2e-6 for vector in seen)


@OPEN_FILES
@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])  # NumPy itself drops exceptions while it reads
def test_deadlines_while_vectors_are_read(tmp_path: Path, alarm: Alarm, suffix: str) -> None:
    path = tmp_path / f"vectors{suffix}"
    embedrt.save_embeddings(path, TEXTS, np.ones((len(TEXTS), 8), np.float32))
    embedrt.load_embeddings(path)
    for _ in range(60):
        error = DeadlineError()
        assert repeat(lambda: embedrt.load_embeddings(path), alarm, 0.002, error) is error


@pytest.mark.parametrize("kind", [DeadlineError, RuntimeError, TimeoutError, SystemExit])
def test_exceptions_that_another_thread_sets(tiny_bundle: Path, kind: type[BaseException]) -> None:
    model = Embedder(tiny_bundle, threads=1)
    expected = model.encode(TEXTS[1])
    caught: SimpleQueue[BaseException] = SimpleQueue()
    encoding: SimpleQueue[int] = SimpleQueue()

    def work() -> None:
        try:
            encoding.put(threading.get_ident())
            while True:
                model.encode(TEXTS[1])
        except BaseException as error:  # noqa: BLE001 - the test compares it
            caught.put(error)

    for _ in range(50):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        ident = encoding.get(timeout=WAIT)
        model.encode(TEXTS[1])
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(kind))
        assert type(caught.get(timeout=WAIT)) is kind
        thread.join(WAIT)
        np.testing.assert_allclose(model.encode(TEXTS[1]), expected, rtol=0, atol=2e-6)

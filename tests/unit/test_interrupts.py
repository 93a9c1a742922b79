"""An interrupt at any point of a call ends that call alone: no other call hangs, no slot is lost."""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import EngineError
from embedrt.bundle.manifest import Tokenization
from embedrt.engine import Batch
from embedrt.inputs.text import Tokens, flat, offsets_of
from embedrt.run import coalescing
from embedrt.run.coalescing import Coalescer

WAIT = 20.0
HOW = Tokenization(pad_id=9, padding_side="right", token_type_ids=False, pooling_mask=False, embedding_rows=10)
# The functions from `run` to a point, each with its line; and the instruction, if instructions are traced.
Place = tuple[tuple[str, int], ...]


@dataclass
class Model:
    """Sums of ids per row, computed once the gate is open, or at once with a 5; fails on batches with a 7."""

    inside: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        with self.lock:
            self.inside += 1
        try:
            assert 5 in batch.feeds["input_ids"] or self.gate.wait(WAIT)
        finally:
            with self.lock:
                self.inside -= 1
        ids, mask = batch.feeds["input_ids"], batch.feeds["attention_mask"]
        if 7 in ids:
            raise EngineError("7")
        return {name: (ids * mask).sum(axis=1, dtype=np.float32)[:, None] for name in outputs}


@dataclass(frozen=True)
class Handler:
    """A signal handler at every line or at every instruction, which raises or encodes."""

    instructions: bool
    raises: bool

    def __str__(self) -> str:
        return f"{'raises' if self.raises else 'encodes'} at every {'instruction' if self.instructions else 'line'}"


@dataclass
class Interrupt:
    """Acts, as a signal handler, at the first place in the coalescer that is not yet in `done`, and enters it there."""

    done: set[Place]
    instructions: bool
    act: Callable[[], object]
    acted: bool = False

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if self.acted or frame.f_code.co_filename != coalescing.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = self.instructions, not self.instructions
        if event == ("opcode" if self.instructions else "line") and (place := self._place(frame)) not in self.done:
            self.done.add(place)
            self.acted = True
            self.act()
        return self

    def _place(self, frame: FrameType | None) -> Place:
        places = []
        while frame is not None:
            if frame.f_code.co_filename == coalescing.__file__:
                places.append((frame.f_code.co_name, frame.f_lasti if self.instructions else frame.f_lineno))
            frame = frame.f_back
        return tuple(places)


class Calls:
    """Calls of a coalescer, each in a thread of its own."""

    def __init__(self, slots: int) -> None:
        self.model = Model()
        self.coalescer = Coalescer(self.model, HOW, slots=slots, run_cost=12)
        self.futures: list[Future[float]] = []

    def start(self, pool: ThreadPoolExecutor, ids: list[int], interrupt: Interrupt | None) -> None:
        """Start a call, and wait until it is in the model, waits, or has ended."""
        self.futures.append(pool.submit(self.call, ids, interrupt))
        self.until(lambda: self._seen() >= len(self.futures))

    def call(self, ids: list[int], interrupt: Interrupt | None) -> float:
        tokens = Tokens(flat([ids]), offsets_of(np.array([len(ids)], np.int64)), None, [])
        before = sys.gettrace()
        if interrupt is not None:
            sys.settrace(interrupt)
        try:
            batch, results = self.coalescer.run(tokens, np.arange(1), len(ids), ("sums",), max_tokens=64)
        finally:
            sys.settrace(before)
        assert batch.feeds["input_ids"][0, : len(ids)].tolist() == ids
        return float(results["sums"].item())

    def _seen(self) -> int:
        return self.model.inside + len(self.coalescer._waiting) + sum(future.done() for future in self.futures)

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        turns = threading.Event()
        for _ in range(int(WAIT / 0.0001)):
            if condition():
                return
            turns.wait(0.0001)
        raise AssertionError("it never came")


def interrupt() -> None:
    raise KeyboardInterrupt


def scenario(
    pool: ThreadPoolExecutor, ids: list[list[int]], slots: int, victim: int, done: set[Place], handler: Handler
) -> bool:
    """Interrupt one of several calls that wait for each other, and check all that must hold afterwards.

    Returns:
        False if there was no place left.
    """
    calls = Calls(slots)
    nested: list[float] = []
    act = interrupt if handler.raises else lambda: nested.append(calls.call([5, 6], None))
    signal = Interrupt(done, handler.instructions, act)
    for i, one in enumerate(ids):
        calls.start(pool, one, signal if i == victim else None)
    calls.model.gate.set()
    for i, (one, future) in enumerate(zip(ids, calls.futures, strict=True)):
        error = future.exception(WAIT)
        if i == victim and signal.acted and handler.raises:
            assert type(error) is KeyboardInterrupt
        elif 7 in one:
            assert type(error) is EngineError
        else:
            assert (error, future.result()) == (None, sum(one))
    assert nested == ([11.0] if signal.acted and not handler.raises else [])
    coalescer = calls.coalescer
    calls.model.gate.clear()
    calls.futures.clear()
    for _ in range(slots):
        calls.start(pool, [1, 2], None)
    calls.until(lambda: calls.model.inside == slots)
    calls.start(pool, [3], None)
    assert (len(coalescer._running), len(coalescer._waiting)) == (slots, 1)
    calls.model.gate.set()
    assert [future.result(WAIT) for future in calls.futures] == [3] * slots + [3]
    assert (coalescer._running, coalescer._waiting) == ({}, {})
    coalescer._locked(lambda: None)
    return signal.acted


CALLS = {
    "joint": [[1, 1, 1, 1], [2, 2], [3], [4, 4]],
    "failing joint": [[1, 1, 1, 1], [2, 2], [7], [4, 4]],
    "too long for one batch": [[1, 1, 1, 1], [2] * 40, [3] * 40],
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(
    ("handler", "slots"),
    [
        (Handler(instructions=False, raises=True), 1),
        (Handler(instructions=False, raises=True), 2),
        (Handler(instructions=False, raises=False), 1),
        (Handler(instructions=False, raises=False), 2),
        pytest.param(Handler(instructions=True, raises=True), 1, marks=pytest.mark.slow),
        pytest.param(Handler(instructions=True, raises=False), 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_interrupt_at_every_point_in_turn(
    monkeypatch: pytest.MonkeyPatch, kind: str, slots: int, handler: Handler
) -> None:
    monkeypatch.setattr(coalescing, "_RECHECK_SECONDS", 0.001)
    with ThreadPoolExecutor(8) as pool:
        for victim in range(len(CALLS[kind])):
            done: set[Place] = set()
            while scenario(pool, CALLS[kind], slots, victim, done, handler):
                pass
            assert len(done) > 25

"""Coalescing: concurrent small calls share a batch. A call that is alone never waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event, Lock
from time import monotonic
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Tokenization
from embedrt.engine import Batch
from embedrt.inputs.padding import pad
from embedrt.inputs.text import Tokens

Results = Mapping[str, NDArray[np.float32]]

# A batch counts as alone only if no two batches have overlapped for this long.
_QUIET_SECONDS = 0.05


class _Engine(Protocol):
    def run(self, batch: Batch, outputs: Sequence[str], /) -> Results: ...


@dataclass(eq=False)
class _Pending:
    """One batch of a call, waiting for a slot or for its result.

    Attributes:
        tokens: The texts of the call.
        rows: Indexes of the texts in the batch.
        length: Padded length of the rows; a joint batch may be longer.
        outputs: Names of the graph outputs to compute; only calls with equal outputs share a batch.
        unpooled: Tokens at the start of each row that are not pooled.
        max_tokens: Token budget of a joint batch.
        turn: Set when the result is there, or when this call has a slot.
        has_slot: True if this call runs the next batch.
        failed: True if a joint batch with it failed, so that it must run alone.
        result: Its part of a joint batch that another call computed.
    """

    tokens: Tokens
    rows: NDArray[np.int64]
    length: int
    outputs: Sequence[str]
    unpooled: int
    max_tokens: int
    turn: Event = field(default_factory=Event)
    has_slot: bool = False
    failed: bool = False
    result: tuple[Batch, Results] | None = None


class Coalescer:
    """Limit on concurrent batches, with a queue whose calls are joined into shared batches.

    It has no thread of its own and never waits for more calls: when a batch is done, its thread wakes the first
    waiting call, which takes along all others that fit.

    Args:
        engine: The engine that computes the batches.
        tokenization: The padding and the inputs of the graph.
        slots: Maximum number of batches at once.
        run_cost: Fixed cost of a batch, in tokens: joining a call is worth this much padding.
    """

    def __init__(self, engine: _Engine, tokenization: Tokenization, *, slots: int, run_cost: int) -> None:
        self._engine = engine
        self._tokenization = tokenization
        self._free = self._slots = slots
        self._run_cost = run_cost
        self._lock = Lock()
        self._waiting: list[_Pending] = []
        self._overlapped_at = float("-inf")

    def run(
        self,
        tokens: Tokens,
        rows: NDArray[np.int64],
        length: int,
        outputs: Sequence[str],
        *,
        unpooled: int = 0,
        max_tokens: int,
    ) -> tuple[Batch, Results]:
        """Compute one batch, alone or joined with batches of other threads.

        If a joint batch fails, its calls run one by one, so that only the failing call gets the error.

        Args:
            tokens: The texts of the call.
            rows: Indexes of the texts in the batch.
            length: Padded length of the rows; a joint batch may be longer.
            outputs: Names of the graph outputs to compute.
            unpooled: Tokens at the start of each row that are not pooled.
            max_tokens: Token budget of a joint batch (rows x longest); the smallest budget of its calls applies.

        Returns:
            The padded rows of this call, and their outputs by name.
        """
        pending = _Pending(tokens, rows, length, outputs, unpooled, max_tokens)
        with self._lock:
            pending.has_slot = self._free > 0
            if pending.has_slot:
                self._free -= 1
            else:
                self._waiting.append(pending)
        try:
            if not pending.has_slot:
                pending.turn.wait()
            if pending.result is not None:
                return pending.result
            return self._compute(pending)
        finally:
            self._release(pending)

    def _compute(self, pending: _Pending) -> tuple[Batch, Results]:
        others, alone = self._take_fitting(pending), self._is_alone()
        if others:
            joined = [pending, *others]
            try:
                batch = self._padded(joined, alone=alone)
                results = self._engine.run(batch, pending.outputs)
            except Exception:  # noqa: BLE001 - the failing call raises it when it runs alone
                self._requeue(others)
            except BaseException:
                self._requeue(others)
                raise
            else:
                parts = _split(batch, results, [len(one.rows) for one in joined])
                for other, part in zip(others, parts[1:], strict=True):
                    other.result = part
                    other.turn.set()
                return parts[0]
        batch = self._padded([pending], alone=alone)
        return batch, self._engine.run(batch, pending.outputs)

    def _is_alone(self) -> bool:
        """Return True if no other batch runs or ran a moment ago; threads in a loop overlap again immediately."""
        now = monotonic()
        with self._lock:
            if self._free < self._slots - 1:
                self._overlapped_at = now
            return now - self._overlapped_at > _QUIET_SECONDS

    def _take_fitting(self, pending: _Pending) -> list[_Pending]:
        """Remove the calls that fit into one batch with this one from the queue, in order of arrival."""
        rows, length, limit = len(pending.rows), pending.length, pending.max_tokens
        tokens = rows * length
        found: list[_Pending] = []
        with self._lock:
            for other in self._waiting:
                more, longest = rows + len(other.rows), max(length, other.length)
                real = tokens + len(other.rows) * other.length
                bound, padding = min(limit, other.max_tokens), more * longest - real
                fits = more * longest <= bound and padding <= self._run_cost * (len(found) + 1)
                if fits and other.outputs == pending.outputs and not (pending.failed or other.failed):
                    found.append(other)
                    rows, length, tokens, limit = more, longest, real, bound
            for other in found:
                self._waiting.remove(other)
        return found

    def _padded(self, joined: list[_Pending], *, alone: bool) -> Batch:
        if len(joined) == 1:
            (pending,) = joined
            return Batch(pad(pending.tokens, pending.rows, pending.length, self._tokenization, pending.unpooled), alone)
        tokens = Tokens.joined([pending.tokens.take(pending.rows) for pending in joined])
        unpooled = np.repeat([pending.unpooled for pending in joined], [len(pending.rows) for pending in joined])
        longest = max(pending.length for pending in joined)
        return Batch(pad(tokens, np.arange(len(tokens)), longest, self._tokenization, unpooled), alone)

    def _requeue(self, others: list[_Pending]) -> None:
        with self._lock:
            for other in others:
                other.failed = True
            self._waiting[:0] = others

    def _release(self, pending: _Pending) -> None:
        """Pass the slot on to the first waiting call, also if this call was interrupted while waiting."""
        with self._lock:
            if pending in self._waiting:
                self._waiting.remove(pending)
            if not pending.has_slot:
                return
            if self._waiting:
                first = self._waiting.pop(0)
                first.has_slot = True
                first.turn.set()
            else:
                self._free += 1


def _split(batch: Batch, results: Results, counts: list[int]) -> list[tuple[Batch, Results]]:
    """Split a joint batch and its outputs into parts with the given numbers of rows."""
    return [
        (
            Batch({name: array[start:end] for name, array in batch.feeds.items()}, batch.alone),
            {name: array[start:end] for name, array in results.items()},
        )
        for start, end in pairwise(np.cumsum([0, *counts]))
    ]

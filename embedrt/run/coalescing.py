"""Coalescing: concurrent small calls share a batch. A call that is alone never waits.

Any thread may be interrupted at any point, by a signal handler that raises or by an exception that another thread sets.
So no state here is trusted for ever. The lists of calls are the truth; whoever waits compares them with the stacks of
the threads from time to time, and mends what an interrupted thread has left behind.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from operator import attrgetter
from queue import Empty, SimpleQueue
from threading import RLock, get_ident
from time import monotonic
from types import FrameType
from typing import Protocol, TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Packing, Tokenization
from embedrt.engine import Batch
from embedrt.engine.native import is_ending, stack
from embedrt.errors import EmbedrtError, OutOfMemory
from embedrt.inputs.text import Tokens
from embedrt.run.batches import batch_tokens, make_batch

Results = Mapping[str, NDArray[np.float32]]
_Arguments = TypeVarTuple("_Arguments")
_Returned = TypeVar("_Returned")

# A batch counts as alone only if no two batches have overlapped for this long.
_QUIET_SECONDS = 0.05
# Seconds between two comparisons of the lists with the threads: how long an interrupt can hold up other calls.
_RECHECK_SECONDS = 0.25


class _Engine(Protocol):
    def run(self, batch: Batch, outputs: Sequence[str], /) -> Results: ...


@dataclass(eq=False)
class _Pending:
    """One batch of a call, from its arrival to its result.

    Attributes:
        tokens: The texts of the call.
        rows: Indexes of the texts in the batch.
        length: Padded length of the rows; a joint batch may be longer.
        size: Tokens that the batch computes, padding included.
        outputs: Names of the graph outputs to compute; only calls with equal outputs share a batch.
        unpooled: Tokens at the start of each row that are not pooled.
        max_tokens: Token budget of a joint batch.
        arrival: Number of the call in order of arrival.
        turn: Gets an item when there may be a result or a slot. A queue of C code: an interrupt cannot break it, as it
            can break an Event.
        taken: The calls whose rows it computes too.
        leader: The call that computes its rows, if another one does.
        failed: True if a joint batch with it failed, so that it must run alone.
        left: True if the call has ended.
        result: Its part of a joint batch that another call computed.
    """

    tokens: Tokens
    rows: NDArray[np.int64]
    length: int
    size: int
    outputs: Sequence[str]
    unpooled: int
    max_tokens: int
    arrival: int = field(default_factory=count().__next__)
    turn: SimpleQueue[None] = field(default_factory=SimpleQueue)
    taken: "list[_Pending]" = field(default_factory=list)
    leader: "_Pending | None" = None
    failed: bool = False
    left: bool = False
    result: tuple[Batch, Results] | None = None


class Coalescer:
    """Limit on concurrent batches, with a queue whose calls are joined into shared batches.

    It has no thread of its own and never waits for more calls: when a batch is done, its thread wakes the first
    waiting call, which takes along all others that fit.

    Calls may be nested: a signal handler may encode while its thread is inside a batch.

    Args:
        engine: The engine that computes the batches.
        tokenization: The padding and the inputs of the graph.
        packing: The inputs of a packed graph, whose batches have no padding; None for a padded one.
        slots: Maximum number of batches at once.
        run_cost: Fixed cost of a batch, in tokens: joining a call is worth this much padding.
    """

    def __init__(
        self,
        engine: _Engine,
        tokenization: Tokenization,
        packing: Packing | None = None,
        *,
        slots: int,
        run_cost: int,
    ) -> None:
        self._engine = engine
        self._tokenization = tokenization
        self._packing = packing
        self._most = sys.maxsize  # tokens of a joint batch that fit into memory
        self._slots = slots
        self._run_cost = run_cost
        self._lock = RLock()  # a handler may run, and encode, while its thread is inside a section
        # Sets, as dictionaries: a call enters and leaves in one step, wherever it came from.
        self._running: dict[_Pending, None] = {}  # each has a slot
        self._waiting: dict[_Pending, None] = {}
        self._overlapped_at = self._compared_at = float("-inf")

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
            max_tokens: Token budget of a joint batch, padding included; the smallest budget of its calls applies.

        Returns:
            The rows of this call as a batch, and their outputs by name.
        """
        size = batch_tokens(tokens, rows, length, self._packing)
        pending = _Pending(tokens, rows, length, size, outputs, unpooled, max_tokens)  # `_alive` reads this variable
        try:
            self._locked(self._enter, pending)
            while pending.result is None and pending not in self._running:
                if not _woken(pending):
                    self._locked(self._mend, pending)
            if pending.result is None:
                alone = self._is_alone()
                if self._waiting:
                    self._locked(self._take_fitting, pending)
                if pending.taken:
                    self._compute_joint(pending, alone=alone)
            if pending.result is None:
                batch = self._batch([pending], alone=alone)
                return batch, self._engine.run(batch, outputs)
            return pending.result
        finally:
            self._locked(self._leave, pending)

    def _compute_joint(self, pending: _Pending, *, alone: bool) -> None:
        """Compute a call with those that it has taken; if that fails, each has to run alone."""
        calls = [pending, *pending.taken]
        try:
            batch = self._batch(calls, alone=alone)
            results = self._engine.run(batch, pending.outputs)
        except EmbedrtError as error:  # the failing call raises it when it runs alone
            if isinstance(error, OutOfMemory):
                self._most = min(self._most, batch.tokens // 2)
            self._locked(self._hand_back, pending, True)
        else:
            self._locked(_deliver, calls, _split(batch, results, [len(call.rows) for call in calls]))

    def _is_alone(self) -> bool:
        """Return True if no other batch runs or ran a moment ago; threads in a loop overlap again immediately."""
        now = monotonic()
        if len(self._running) > 1:
            if now - self._compared_at > _RECHECK_SECONDS:  # the others may have been interrupted
                self._locked(self._mend, None)
            if len(self._running) > 1:
                self._overlapped_at = now
        return now - self._overlapped_at > _QUIET_SECONDS

    def _batch(self, joined: list[_Pending], *, alone: bool) -> Batch:
        tokens, rows, length = joined[0].tokens, joined[0].rows, joined[0].length
        unpooled: int | NDArray[np.int64] = joined[0].unpooled
        if len(joined) > 1:
            tokens = Tokens.joined([pending.tokens.take(pending.rows) for pending in joined])
            rows, length = np.arange(len(tokens)), max(pending.length for pending in joined)
            unpooled = np.repeat([pending.unpooled for pending in joined], [len(pending.rows) for pending in joined])
        return make_batch(tokens, rows, length, self._tokenization, self._packing, unpooled, alone=alone)

    def _locked(self, section: Callable[[*_Arguments], _Returned], *arguments: *_Arguments) -> _Returned:
        """Call a section with the lock.

        An interrupt can leave the lock behind, right after it is acquired and right before it is released. Sections
        take microseconds, so a lock that is held for long while no thread is inside a section is replaced.
        """
        while not (lock := self._lock).acquire(timeout=_RECHECK_SECONDS):
            if self._lock is lock and not self._is_locked():
                self._lock = RLock()
        try:
            return section(*arguments)
        finally:
            lock.release()

    def _is_locked(self) -> bool:
        """Return True if another thread is inside a section."""
        return any(
            frame.f_code in _SECTIONS and frame.f_locals.get("self") is self and thread != get_ident()
            for thread, frame in _frames()
        )

    # The sections. Wherever one is interrupted, each call is still in a list, or has a result, or has a leader; and a
    # call that is in a list too many is computed twice, which costs time and changes nothing.

    def _enter(self, pending: _Pending) -> None:
        """Give a call a slot, or let it wait.

        A nested call waits for nothing, as the outer one may have what it waits for. The same holds at the end of the
        process, when the other threads are kept from native code.
        """
        has_slot = len(self._running) < self._slots or self._is_nested() or is_ending()
        (self._running if has_slot else self._waiting)[pending] = None

    def _is_nested(self) -> bool:
        """Return True if this thread has another call in progress."""
        calls = [frame for frame in stack(sys._getframe()) if frame.f_code is Coalescer.run.__code__]
        return sum(frame.f_locals.get("self") is self for frame in calls) > 1

    def _take_fitting(self, pending: _Pending) -> None:
        """Remove the calls that fit into one batch with this one from the queue, in order of arrival."""
        rows, length, limit = len(pending.rows), pending.length, min(pending.max_tokens, self._most)
        size = pending.size  # without the padding of shorter calls to the longest
        found: list[_Pending] = []
        for other in self._in_order():
            more, longest, real = rows + len(other.rows), max(length, other.length), size + other.size
            total = real if self._packing is not None else more * longest
            bound = min(limit, other.max_tokens)
            fits = total <= bound and total - real <= self._run_cost * (len(found) + 1)
            fits = fits and other.outputs == pending.outputs and not (pending.failed or other.failed)
            if fits and other is not pending and other not in self._running:
                found.append(other)
                rows, length, size, limit = more, longest, real, bound
        for other in found:
            pending.taken.append(other)
            other.leader = pending
            self._waiting.pop(other, None)

    def _hand_back(self, pending: _Pending, failed: bool) -> None:
        """Return the taken calls without a result to the queue."""
        for other in pending.taken:
            if other.leader is pending:
                other.failed = other.failed or failed
                if other.result is None and other not in self._running and not other.left:
                    self._waiting[other] = None
                other.leader = None

    def _leave(self, pending: _Pending) -> None:
        """Remove a call that ends, and pass on its slot and the calls that it has not computed."""
        pending.left = True
        self._waiting.pop(pending, None)
        self._running.pop(pending, None)
        self._hand_back(pending, False)
        self._promote()

    def _promote(self) -> None:
        """Give free slots to the first waiting calls."""
        for first in self._in_order():
            if len(self._running) >= self._slots:
                return
            if first in self._waiting:
                self._running[first] = None
                self._waiting.pop(first, None)
                first.turn.put(None)

    def _in_order(self) -> list[_Pending]:
        """The waiting calls in order of arrival."""
        return sorted(self._waiting, key=attrgetter("arrival"))

    def _mend(self, pending: _Pending | None) -> None:
        """Remove the calls that have ended without leaving; a waiting call that nobody computes queues up again."""
        alive = _alive()
        for calls in (self._running, self._waiting):
            for call in [*calls]:
                if call not in alive:
                    calls.pop(call, None)
        if pending is not None and pending not in self._running and pending.leader not in alive:
            self._waiting[pending] = None
        self._promote()
        self._compared_at = monotonic()


# The functions that change the lists.
_SECTIONS = {
    section.__code__
    for section in (Coalescer._enter, Coalescer._take_fitting, Coalescer._hand_back, Coalescer._leave, Coalescer._mend)
}


def _frames() -> Iterator[tuple[int, FrameType]]:
    """The stack frames of all threads, each with its thread."""
    return ((thread, frame) for thread, top in sys._current_frames().items() for frame in stack(top))


def _alive() -> set[_Pending]:
    """The calls whose threads are inside `Coalescer.run` for them."""
    found = (frame.f_locals.get("pending") for _, frame in _frames() if frame.f_code is Coalescer.run.__code__)
    return {pending for pending in found if pending is not None}


def _woken(pending: _Pending) -> bool:
    """Wait until something happens to a call; return False if nothing has for a while."""
    try:
        pending.turn.get(timeout=_RECHECK_SECONDS)
    except Empty:
        return False
    return True


def _deliver(calls: Sequence[_Pending], parts: Sequence[tuple[Batch, Results]]) -> None:
    for call, part in zip(calls, parts, strict=True):
        call.result = part
        call.leader = None  # so that they are not garbage that refers to each other
        call.turn.put(None)


def _split(batch: Batch, results: Results, counts: list[int]) -> list[tuple[Batch, Results]]:
    """Split a joint batch and its outputs into parts with the given numbers of rows."""
    return [
        (batch.part(start, end), batch.part_of(results, start, end))
        for start, end in pairwise(np.cumsum([0, *counts]).tolist())
    ]

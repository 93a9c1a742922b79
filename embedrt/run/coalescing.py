"""Small calls from many threads at once become one batch. A call that is alone waits for nobody."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from embedrt.types import Vectors

Feeds = dict[str, NDArray[np.int64]]

# For so long after two batches ran at once, a batch is not taken for the only one.
_QUIET_SECONDS = 0.05


@dataclass(eq=False)
class _Ask:
    """One call's batch, and what comes of it.

    Attributes:
        feeds: The graph's inputs.
        turn: Set when the result is there, or when it is this call's turn to run.
        leads: Whether it is this call's turn.
        failed: Whether it was in a joint batch that failed, so that it had better run alone.
        result: Its vectors, once another call has computed them.
    """

    feeds: Feeds
    turn: Event = field(default_factory=Event)
    leads: bool = False
    failed: bool = False
    result: Vectors | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens of the longest."""
        rows, length = self.feeds["input_ids"].shape
        return rows, length


class Coalescer:
    """Runs a few batches at a time; what arrives meanwhile goes together into the next.

    There is no thread of its own and no waiting for others to come: the call whose batch is done wakes the first of
    those that wait, and that one takes with it all that fits.

    Args:
        run: Computes the vectors of a batch, told whether it is the only one.
        slots: How many batches may run at once.
        max_tokens: Upper bound of a joint batch's rows x longest.
        run_cost: What a batch costs before its first token, in tokens: so much padding is worth it for each call.
        fill: What pads an input, by name; the others are padded with zeros.
        left: Whether batches are padded on the left.
    """

    def __init__(
        self,
        run: Callable[[Feeds, bool], Vectors],
        *,
        slots: int,
        max_tokens: int,
        run_cost: int,
        fill: dict[str, int],
        left: bool,
    ) -> None:
        self._run = run
        self._free = self._slots = slots
        self._max_tokens = max_tokens
        self._run_cost = run_cost
        self._fill = fill
        self._left = left
        self._lock = Lock()
        self._waiting: list[_Ask] = []
        self._shared_at = float("-inf")

    def __call__(self, feeds: Feeds) -> Vectors:
        """The vectors of one batch, computed alone or together with those of other threads.

        If a joint batch fails, its calls run one by one, and the one that is at fault gets the error.
        """
        ask = _Ask(feeds)
        with self._lock:
            ask.leads = self._free > 0
            if ask.leads:
                self._free -= 1
            else:
                self._waiting.append(ask)
        try:
            if not ask.leads:
                ask.turn.wait()
            if ask.result is not None:
                return ask.result
            return self._lead(ask)
        finally:
            self._leave(ask)

    def _lead(self, ask: _Ask) -> Vectors:
        others, alone = self._companions(ask), self._is_alone()
        if others:
            try:
                vectors = self._run(self._joined([ask, *others]), alone)
            except Exception:  # noqa: BLE001 - whose it is shows when each runs alone
                self._return(others)
            except BaseException:
                self._return(others)
                raise
            else:
                bounds = np.cumsum([ask.shape[0], *(other.shape[0] for other in others)])
                for other, start, end in zip(others, bounds, bounds[1:], strict=False):
                    other.result = vectors[start:end]
                    other.turn.set()
                return vectors[: bounds[0]]
        return self._run(ask.feeds, alone)

    def _is_alone(self) -> bool:
        """Whether nothing else runs, or ran a moment ago: threads that take turns overlap again at once."""
        now = monotonic()
        with self._lock:
            if self._free < self._slots - 1:
                self._shared_at = now
            return now - self._shared_at > _QUIET_SECONDS

    def _companions(self, ask: _Ask) -> list[_Ask]:
        """Takes those out of the queue that fit into one batch with this call, the first come first."""
        rows, length = ask.shape
        tokens = rows * length
        found: list[_Ask] = []
        with self._lock:
            for other in self._waiting:
                more, longest = rows + other.shape[0], max(length, other.shape[1])
                real = tokens + other.shape[0] * other.shape[1]
                padding = more * longest - real
                fits = more * longest <= self._max_tokens and padding <= self._run_cost * (len(found) + 1)
                if fits and not (ask.failed or other.failed):
                    found.append(other)
                    rows, length, tokens = more, longest, real
            for other in found:
                self._waiting.remove(other)
        return found

    def _joined(self, asks: list[_Ask]) -> Feeds:
        longest = max(ask.shape[1] for ask in asks)

        def padded(name: str, array: NDArray[np.int64]) -> NDArray[np.int64]:
            missing = longest - array.shape[1]
            widths = ((0, 0), (missing, 0) if self._left else (0, missing))
            return np.pad(array, widths, constant_values=self._fill.get(name, 0))

        return {name: np.concatenate([padded(name, ask.feeds[name]) for ask in asks]) for name in asks[0].feeds}

    def _return(self, others: list[_Ask]) -> None:
        with self._lock:
            for other in others:
                other.failed = True
            self._waiting[:0] = others

    def _leave(self, ask: _Ask) -> None:
        """Hands the turn to the first that waits; also if this call was interrupted while it waited."""
        with self._lock:
            if ask in self._waiting:
                self._waiting.remove(ask)
            if not ask.leads:
                return
            if self._waiting:
                first = self._waiting.pop(0)
                first.leads = True
                first.turn.set()
            else:
                self._free += 1

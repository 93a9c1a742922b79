"""Small calls from many threads at once become one batch. A call that is alone waits for nobody."""

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

# For so long after two batches ran at once, a batch is not taken for the only one.
_QUIET_SECONDS = 0.05


class _Engine(Protocol):
    def run(self, batch: Batch, outputs: Sequence[str], /) -> Results: ...


@dataclass(eq=False)
class _Ask:
    """Rows of one call, and their results.

    Attributes:
        tokens: Texts of the call.
        rows: Indexes of those that are in the batch.
        length: Tokens to which they are padded, unless others with them are longer.
        outputs: Outputs of the graph to compute; only calls for the same ones share a batch.
        left_out: Tokens at the start of each row that are not pooled.
        max_tokens: Upper bound of a joint batch's rows x longest.
        turn: Set when the result is there, or when it is this call's turn to run.
        leads: Whether it is this call's turn.
        failed: Whether it was in a joint batch that failed, so that it had better run alone.
        result: Its part of a joint batch, once another call has computed it.
    """

    tokens: Tokens
    rows: NDArray[np.int64]
    length: int
    outputs: Sequence[str]
    left_out: int
    max_tokens: int
    turn: Event = field(default_factory=Event)
    leads: bool = False
    failed: bool = False
    result: tuple[Batch, Results] | None = None


class Coalescer:
    """Runs a few batches at a time; what arrives meanwhile goes together into the next.

    There is no thread of its own and no waiting for others to come: the call whose batch is done wakes the first of
    those that wait, and that one takes with it all that fits.

    Args:
        engine: Computes the batches.
        tokenization: The padding, and the inputs that the graph has.
        slots: How many batches may run at once.
        run_cost: What a batch costs before its first token, in tokens: so much padding is worth it for each call.
    """

    def __init__(self, engine: _Engine, tokenization: Tokenization, *, slots: int, run_cost: int) -> None:
        self._engine = engine
        self._tokenization = tokenization
        self._free = self._slots = slots
        self._run_cost = run_cost
        self._lock = Lock()
        self._waiting: list[_Ask] = []
        self._shared_at = float("-inf")

    def run(
        self,
        tokens: Tokens,
        rows: NDArray[np.int64],
        length: int,
        outputs: Sequence[str],
        *,
        left_out: int = 0,
        max_tokens: int,
    ) -> tuple[Batch, Results]:
        """Computes one batch, alone or together with those of other threads.

        If a joint batch fails, its calls run one by one, and the one that is at fault gets the error.

        Args:
            tokens: Texts of the call.
            rows: Indexes of those that are in the batch.
            length: Tokens to pad them to, unless others with them are longer.
            outputs: Outputs of the graph to compute.
            left_out: Tokens at the start of each row that are not pooled.
            max_tokens: Upper bound of rows x longest of a joint batch. Each call in it keeps to its own.

        Returns:
            The padded rows of this call, and their outputs by name.
        """
        ask = _Ask(tokens, rows, length, outputs, left_out, max_tokens)
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

    def _lead(self, ask: _Ask) -> tuple[Batch, Results]:
        others, alone = self._companions(ask), self._is_alone()
        if others:
            asks = [ask, *others]
            try:
                batch = self._padded(asks, alone=alone)
                results = self._engine.run(batch, ask.outputs)
            except Exception:  # noqa: BLE001 - whose it is shows when each runs alone
                self._return(others)
            except BaseException:
                self._return(others)
                raise
            else:
                parts = _split(batch, results, [len(one.rows) for one in asks])
                for other, part in zip(others, parts[1:], strict=True):
                    other.result = part
                    other.turn.set()
                return parts[0]
        batch = self._padded([ask], alone=alone)
        return batch, self._engine.run(batch, ask.outputs)

    def _is_alone(self) -> bool:
        """Whether nothing else runs, or ran a moment ago: threads that take turns overlap again at once."""
        now = monotonic()
        with self._lock:
            if self._free < self._slots - 1:
                self._shared_at = now
            return now - self._shared_at > _QUIET_SECONDS

    def _companions(self, ask: _Ask) -> list[_Ask]:
        """Takes those out of the queue that fit into one batch with this call, the first come first."""
        rows, length, limit = len(ask.rows), ask.length, ask.max_tokens
        tokens = rows * length
        found: list[_Ask] = []
        with self._lock:
            for other in self._waiting:
                more, longest = rows + len(other.rows), max(length, other.length)
                real = tokens + len(other.rows) * other.length
                bound, padding = min(limit, other.max_tokens), more * longest - real
                fits = more * longest <= bound and padding <= self._run_cost * (len(found) + 1)
                if fits and other.outputs == ask.outputs and not (ask.failed or other.failed):
                    found.append(other)
                    rows, length, tokens, limit = more, longest, real, bound
            for other in found:
                self._waiting.remove(other)
        return found

    def _padded(self, asks: list[_Ask], *, alone: bool) -> Batch:
        if len(asks) == 1:
            (ask,) = asks
            return Batch(pad(ask.tokens, ask.rows, ask.length, self._tokenization, ask.left_out), alone)
        tokens = Tokens.joined([ask.tokens.take(ask.rows) for ask in asks])
        left_out = np.repeat([ask.left_out for ask in asks], [len(ask.rows) for ask in asks])
        longest = max(ask.length for ask in asks)
        return Batch(pad(tokens, np.arange(len(tokens)), longest, self._tokenization, left_out), alone)

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


def _split(batch: Batch, results: Results, counts: list[int]) -> list[tuple[Batch, Results]]:
    """Parts of a joint batch and of its outputs, with so many rows each."""
    return [
        (
            Batch({name: array[start:end] for name, array in batch.feeds.items()}, batch.alone),
            {name: array[start:end] for name, array in results.items()},
        )
        for start, end in pairwise(np.cumsum([0, *counts]))
    ]

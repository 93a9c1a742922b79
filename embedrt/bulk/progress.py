"""Progress of a job: a bar that moves with every batch and estimates the end, or lines of JSON."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol, TextIO

import numpy as np

from embedrt.bulk.job import Job
from embedrt.bulk.manifest import Line
from embedrt.bulk.transform import Facts


class Progress(Protocol):
    """A display of a run. Safe to use from several threads."""

    def batch(self, unit: int, texts: int, tokens: int) -> None:
        """Show a batch of the window that is in the model."""

    def window(self, unit: int, facts: Facts) -> None:
        """Show a window: numbers in the place of those of its batches."""

    def made(self, line: Line) -> None:
        """Show a part that was made."""


@contextmanager
def showing(job: Job, *, bar: bool, json_log: bool) -> Iterator[Progress]:
    """Show the progress of a run for a `with` block.

    Args:
        job: The job.
        bar: Whether to show a bar, on standard error.
        json_log: Whether to write every part as a line of JSON to standard error.
    """
    if json_log:
        yield _Lines(job, sys.stderr)
    elif bar:
        shown = _Bar(job)
        try:
            yield shown
        finally:
            shown.close()
    else:
        yield _Nothing()


class _Nothing:
    def batch(self, unit: int, texts: int, tokens: int) -> None:
        del unit, texts, tokens

    def window(self, unit: int, facts: Facts) -> None:
        del unit, facts

    def made(self, line: Line) -> None:
        del line


class _Lines(_Nothing):
    def __init__(self, job: Job, stream: TextIO) -> None:
        self._job = job
        self._stream = stream
        self._estimate = Estimate(job)

    def made(self, line: Line) -> None:
        self._estimate.made(line)
        fields = asdict(line)
        del fields["versions"]
        done = {"parts": self._job.parts, "of": self._job.units, "seconds_left": self._estimate.seconds_left()}
        self._stream.write(json.dumps({"time": round(time.time(), 3), **fields, **done}) + "\n")
        self._stream.flush()


class _Bar:
    def __init__(self, job: Job) -> None:
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._estimate = Estimate(job)
        self._bar: Any = tqdm(
            total=self._estimate.rows,
            unit="row",
            miniters=1,  # tqdm adapts it to the largest step otherwise
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows{postfix}",
        )

    def batch(self, unit: int, texts: int, tokens: int) -> None:
        with self._lock:
            self._estimate.batch(unit, texts, tokens)
            self._show()

    def window(self, unit: int, facts: Facts) -> None:
        with self._lock:
            self._estimate.window(unit, facts)
            self._show()

    def made(self, line: Line) -> None:
        with self._lock:
            self._estimate.made(line)
            self._show()

    def _show(self) -> None:
        self._bar.set_postfix_str(self._estimate.text(), refresh=False)
        self._bar.update(min(self._estimate.facts.rows, self._estimate.rows) - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class Estimate:
    """The speed of a run, and its end.

    Nobody knows the tokens of a text before it is read: the rest is estimated by the bytes of its source.

    Args:
        job: The job.

    Attributes:
        rows: Rows of the units without a part.
    """

    def __init__(self, job: Job) -> None:
        self._plan = job.plan
        self._started = time.monotonic()
        rows, shares = job.plan.shares(np.fromiter(job.missing(), np.int64))
        self.rows = int(rows.sum())
        self._bytes = float(shares.sum())
        self._made, self._made_bytes = Facts(), 0.0
        self._windows: dict[int, Facts] = {}  # of units without a part
        self._batches: dict[int, Facts] = {}  # of windows that are not done

    def batch(self, unit: int, texts: int, tokens: int) -> None:
        """Count a batch."""
        self._batches[unit] = self._batches.get(unit, Facts()) + Facts(rows=texts, tokens=tokens)

    def window(self, unit: int, facts: Facts) -> None:
        """Count a window, in the place of its batches."""
        self._batches.pop(unit, None)
        self._windows[unit] = self._windows.get(unit, Facts()) + facts

    def made(self, line: Line) -> None:
        """Count a part, in the place of its windows."""
        self._windows.pop(line.unit, None)
        self._made += line.facts
        self._made_bytes += self._share(line.unit, line.rows)

    @property
    def facts(self) -> Facts:
        """The numbers so far."""
        return sum((*self._windows.values(), *self._batches.values()), self._made)

    def seconds_left(self) -> float | None:
        """The estimated seconds until the end; None before the first batch."""
        begun = [*self._windows.items(), *self._batches.items()]
        done = self._made_bytes + sum(self._share(unit, facts.rows) for unit, facts in begun)
        if not done:
            return None
        return round(max(self._bytes - done, 0.0) / done * (time.monotonic() - self._started), 1)

    def _share(self, unit: int, rows: int) -> float:
        """The bytes of the source that some rows of a unit have."""
        of_unit, size = self._plan.shares(np.array([unit]))
        return rows * float(size[0]) / max(int(of_unit[0]), 1)

    def text(self) -> str:
        """The speed, the share of special texts, and the time left."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        facts = self.facts
        rows = max(facts.rows, 1)
        shares = [(facts.truncated, "truncated"), (facts.duplicates, "duplicate"), (facts.failed, "failed")]
        words = [f"{facts.rows / seconds:.0f} rows/s", f"{facts.tokens / seconds:.0f} tokens/s"]
        words += [f"{count / rows:.1%} {name}" for count, name in shares if count]
        left = self.seconds_left()
        return ", ".join([*words, *([] if left is None else [f"{clock(left)} left"])])


def clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

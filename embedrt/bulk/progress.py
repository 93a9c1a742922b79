"""Progress of a job: a bar that estimates the end by tokens, or lines of JSON."""

import json
import sys
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
    """A display of a run."""

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
    def made(self, line: Line) -> None:
        del line


class _Lines:
    def __init__(self, job: Job, stream: TextIO) -> None:
        self._job = job
        self._stream = stream
        self._estimate = Estimate(job)

    def made(self, line: Line) -> None:
        self._estimate.add(line)
        fields = asdict(line)
        del fields["versions"]
        done = {"parts": self._job.parts, "of": self._job.units, "seconds_left": self._estimate.seconds_left()}
        self._stream.write(json.dumps({"time": round(time.time(), 3), **fields, **done}, ensure_ascii=False) + "\n")
        self._stream.flush()


class _Bar:
    def __init__(self, job: Job) -> None:
        from tqdm import tqdm

        self._estimate = Estimate(job)
        self._bar: Any = tqdm(
            total=self._estimate.rows,
            unit="row",
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows{postfix}",
        )

    def made(self, line: Line) -> None:
        self._estimate.add(line)
        self._bar.set_postfix_str(self._estimate.text(), refresh=False)
        self._bar.update(line.rows)

    def close(self) -> None:
        self._bar.close()


class Estimate:
    """The speed of a run and its end, by tokens.

    Nobody knows the tokens of a text before it is read, but how many tokens a byte of the source has so far.

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
        self._bytes_left = float(shares.sum())
        self._bytes = 0.0
        self._facts = Facts()

    def add(self, line: Line) -> None:
        """Count a part."""
        share = float(self._plan.shares(np.array([line.unit]))[1][0])
        self._bytes += share
        self._bytes_left -= share
        self._facts += line.facts

    def seconds_left(self) -> float | None:
        """The estimated seconds until the end; None before the first part."""
        if not self._bytes:
            return None
        speed = (self._facts.tokens or self._bytes) / max(time.monotonic() - self._started, 1e-9)
        left = max(self._bytes_left, 0.0) * (self._facts.tokens / self._bytes if self._facts.tokens else 1.0)
        return round(left / speed, 1)

    def text(self) -> str:
        """The speed, the share of special texts, and the time left."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rows = max(self._facts.rows, 1)
        shares = [
            (self._facts.truncated, "truncated"),
            (self._facts.duplicates, "duplicate"),
            (self._facts.failed, "failed"),
        ]
        words = [f"{self._facts.rows / seconds:.0f} rows/s", f"{self._facts.tokens / seconds:.0f} tokens/s"]
        words += [f"{count / rows:.1%} {name}" for count, name in shares if count]
        left = self.seconds_left()
        return ", ".join([*words, *([] if left is None else [f"{clock(left)} left"])])


def clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""`check`: every part of a job against its line, by hash."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from embedrt.bulk import manifest, parts
from embedrt.bulk.driver import collect_errors
from embedrt.bulk.job import Job, find_job
from embedrt.bulk.manifest import Line
from embedrt.bulk.task import adopted
from embedrt.bulk.transform import Facts

_THREADS = 2  # hashing is as fast as most disks
_SHOWN = 20


@dataclass(frozen=True)
class Check:
    """The state of a job.

    Attributes:
        target: The folder.
        units: The units of the job.
        rows: The rows of the source.
        done: Numbers about the parts that are whole.
        missing: Numbers of units without a part.
        damaged: Names of parts that are not those of their lines.
        strange: Names of parts that no unit has.
        errors: Rows without a result.
    """

    target: Path
    units: int
    rows: int
    done: Facts
    missing: tuple[int, ...]
    damaged: tuple[str, ...]
    strange: tuple[str, ...]
    errors: int

    @property
    def is_whole(self) -> bool:
        """True if every row of the source is in one whole part, or has an error."""
        return not (self.missing or self.damaged or self.strange)

    @property
    def summary(self) -> str:
        """The state in a few lines."""
        facts = self.done
        whole = self.units - len(self.missing) - len(self.damaged)
        numbers = (
            f"{facts.rows} of {self.rows} rows, {facts.written} written, {facts.tokens} tokens, {facts.truncated} "
            f"truncated, {facts.duplicates} duplicate, {facts.failed} failed"
        )
        lines = [f"{whole} of {self.units} parts are whole: {numbers}"]
        if self.missing:
            lines.append(f"missing: {_listed(self.missing)}; run the job again")
        if self.damaged:
            lines.append(f"damaged: {_listed(self.damaged)}; delete them, and run the job again")
        if self.strange:
            lines.append(f"not of this job: {_listed(self.strange)}; move them away")
        return "\n".join(lines)


def check(target: str | os.PathLike[str]) -> Check:
    """Check every part of a job by its hash, and join the errors of all units in `_job/errors.jsonl`.

    Args:
        target: The folder of the job.

    Returns:
        The units that are missing and the parts that are damaged; `is_whole` if there are none.

    Raises:
        BulkError: The folder has no job.

    Example:
        >>> embedrt.bulk.check("vectors/").is_whole
        True
    """
    folder = Path(target)
    job = find_job(folder)
    states = bytearray(len(job.plan))
    done = Facts()
    for line in _whole(folder, job):
        if not states[line.unit]:
            states[line.unit] = 1
            done += line.facts
    missing, damaged = [], []
    for number in (number for number, state in enumerate(states) if not state):
        task = job.task(number)
        if not (folder / task.part).exists():
            missing.append(number)
        elif not job.has_line(number) and (found := adopted(task)) is not None:
            done += found.facts
        else:
            damaged.append(task.part)
    return Check(
        folder,
        len(job.plan),
        job.plan.rows,
        done,
        tuple(missing),
        tuple(damaged),
        tuple(name for name in job.names() if (parts.number_of(name) or 0) >= len(job.plan)),
        collect_errors(folder),
    )


def _whole(target: Path, job: Job) -> Iterator[Line]:
    """Lines with which their parts agree."""
    lines = (line for line in manifest.read_lines(job.folder) if line.unit < len(job.plan))
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(islice(lines, 1024)):
            for line, agrees in zip(some, pool.map(lambda line: _agrees(target, line), some), strict=True):
                if agrees:
                    yield line


def _agrees(target: Path, line: Line) -> bool:
    try:
        return parts.sha256_of(target / line.part) == line.sha256
    except OSError:
        return False


def _listed(names: tuple[object, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more

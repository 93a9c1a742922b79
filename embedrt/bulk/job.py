"""The folder of a job: what decides its result, its plan, the parts that are in place, and the lock of a run.

A target has parts, and a folder `_job` with

- `job.json`, what decides the result; `files.jsonl` and `units.npy`, the plan. The folder is renamed into place with
  these three, and they do not change.
- `manifest.jsonl`, or one manifest for each shard.
- `errors`, a file of rows without a result for each unit that has some.
- `lock-...`, the locks of shards.

`_job.lock` beside it is locked by a run: shared by runs of shards. Results do not depend on locks, which some network
file systems lack: parts are renamed into place, and any line that agrees with a part counts.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from embedrt.bulk import manifest, parts
from embedrt.bulk.manifest import Line
from embedrt.bulk.options import Meaning
from embedrt.bulk.plan import Pieces, Plan, SourceFile, make_plan, read_plan, write_plan
from embedrt.bulk.task import JOB_FOLDER, Task, adopted, alike, host, versions
from embedrt.bulk.transform import Facts
from embedrt.bundle.locks import Lock, try_lock
from embedrt.bundle.staging import clear, flush, staging, sync
from embedrt.bundle.strict_json import RecordError, decode, read_json
from embedrt.errors import BulkError

_RECORD, _FILES, _UNITS, _LOCK = "job.json", "files.jsonl", "units.npy", "_job.lock"
_VERSION = 1
_SHOWN = 5
"""Differences in a message."""
_RESTART_SECONDS, _POLL_SECONDS = 60.0, 0.05
_MISSING, _DONE, _DAMAGED = 0, 1, 2

Shard = tuple[int, int]
"""(i, n): every n-th unit, from the i-th on, 1 to n."""


@dataclass(frozen=True)
class Wanted:
    """Everything that decides the result of a job, but for its source.

    Attributes:
        model: The name of the model, for people.
        fingerprint: The fingerprint of the vector space.
        dtype: The dtype of the model.
        max_seq_length: Maximum tokens of a text; None takes the model's.
        meaning: The options.
    """

    model: str
    fingerprint: str
    dtype: str
    max_seq_length: int | None
    meaning: Meaning


@dataclass(frozen=True)
class Record:
    """The contents of `job.json`.

    Attributes:
        format_version: Version of the format.
        wanted: What decides the result, but for the source.
        source: SHA-256 of names, formats, sizes and versions of the source files.
        files: The number of source files.
        rows: The rows of the source.
        units: The number of units.
        made_with: The packages that made the plan, with versions.
    """

    format_version: int
    wanted: Wanted
    source: str
    files: int
    rows: int
    units: int
    made_with: dict[str, str]

    @property
    def digest(self) -> str:
        """The hash of all that decides the result; every part has it."""
        decides = {**asdict(self.wanted), "source": self.source}
        del decides["model"]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


class Job:
    """A job: its plan, and the parts that are in place.

    Args:
        target: The folder.
        record: What decides the result.
        plan: The plan.
        shard: The shard of this run; None takes all units.

    Attributes:
        target: See above.
        record: See above.
        plan: See above.
        done: Numbers about the parts that are in place.
        made: Numbers about those that this run put there.
        parts: The number of parts that are in place.
    """

    def __init__(self, target: Path, record: Record, plan: Plan, shard: Shard | None = None) -> None:
        self.target = target
        self.record = record
        self.plan = plan
        self.done = self.made = Facts()
        self.parts = 0
        self._shard = shard
        self._lock = threading.Lock()
        self._states = bytearray(len(plan))
        name = manifest.PREFIX if shard is None else f"{manifest.PREFIX}-{shard[0]}-of-{shard[1]}"
        self._manifest = manifest.Writer(target / JOB_FOLDER / f"{name}.jsonl")
        for line in manifest.read_lines(target / JOB_FOLDER):
            if line.unit < len(plan) and self._states[line.unit] != _DONE and self._is_mine(line.unit):
                self._note(line, _DONE if _agrees(target, line) else _DAMAGED)

    @property
    def meaning(self) -> Meaning:
        """The options that decide the result."""
        return self.record.wanted.meaning

    @property
    def folder(self) -> Path:
        """The folder with everything but the parts."""
        return self.target / JOB_FOLDER

    @property
    def units(self) -> int:
        """The number of units of this run."""
        return len(self._numbers())

    def task(self, number: int) -> Task:
        """A unit with what its computation needs."""
        unit = self.plan.unit(number)
        files = self.plan.files_of(unit)
        return Task(str(self.target), self.record.digest, files, unit, self.meaning, self.record.wanted.fingerprint)

    def tasks(self, adopt: Callable[[Line], None]) -> Iterator[Task]:
        """The units without a part, in order.

        Args:
            adopt: Function that commits the line of a part that only lacks its line.
        """
        for number in self._numbers():
            if self._states[number] == _DONE:
                continue
            task = self.task(number)
            line = adopted(task) if self._states[number] == _MISSING else None
            if line is None:
                yield task
            else:
                adopt(line)

    def commit(self, line: Line) -> None:
        """Add the line of a part that is in place.

        Raises:
            BulkError: The manifest cannot be written; the part is found by the next run.
        """
        try:
            self._manifest.append(line)
        except OSError as error:
            raise BulkError(
                f"{self.target}: writing the manifest failed: {error.strerror}; every part is whole: run the same "
                "command again once this is mended"
            ) from error
        self._note(line, _DONE)
        with self._lock:
            self.made += line.facts

    def missing(self) -> Iterator[int]:
        """The units of this run without a part that agrees with its line."""
        return (number for number in self._numbers() if self._states[number] != _DONE)

    def has_line(self, number: int) -> bool:
        """Return True if the manifest has a line of a unit."""
        return self._states[number] != _MISSING

    def names(self) -> list[str]:
        """Names of all parts in the folder."""
        return _parts(self.target)

    def _note(self, line: Line, state: int) -> None:
        with self._lock:
            self._states[line.unit] = state
            if state == _DONE:
                self.done += line.facts
                self.parts += 1

    def _numbers(self) -> range:
        if self._shard is None:
            return range(len(self.plan))
        return range(self._shard[0] - 1, len(self.plan), self._shard[1])

    def _is_mine(self, number: int) -> bool:
        return number in self._numbers()


def _agrees(target: Path, line: Line) -> bool:
    """Return True if a part is the one of a line; it is hashed if its time is another."""
    path = target / line.part
    try:
        size, mtime_ns = parts.state_of(path)
        return size == line.size and (mtime_ns == line.mtime_ns or parts.sha256_of(path) == line.sha256)
    except OSError:
        return False


def find_job(target: Path) -> Job:
    """The job of a folder, to look at.

    Raises:
        BulkError: The folder has no job, or a damaged one.
    """
    record = _read_record(target)
    if record is None:
        raise BulkError(f"{target}: expected the folder of a bulk job, found no {JOB_FOLDER}/{_RECORD} in it")
    return Job(target, record, _read_plan(target, record))


@contextlib.contextmanager
def open_job(
    target: Path,
    wanted: Wanted,
    files: Sequence[SourceFile],
    pieces: Pieces,
    *,
    shard: Shard | None = None,
    restart: bool = False,
) -> Iterator[Job]:
    """Begin a job, or go on with it, for a `with` block.

    Args:
        target: The folder.
        wanted: What decides the result.
        files: The source files.
        pieces: Splits a file, as `make_plan` takes it.
        shard: The units to compute; None takes all.
        restart: Whether to start over if something was changed.

    Raises:
        BulkError: Something was changed, another run uses the folder, or the folder has parts of something else.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target / _LOCK, shared=shard is not None) as lock:
        for folder in (target, target / parts.STAGING, target / JOB_FOLDER):
            clear(folder)  # of runs that were killed: this one may have nothing to write
        record = _current(target, wanted, files, lock, restart=restart)
        if record is None:
            _create(target, wanted, files, pieces)
            record = _read_record(target)
            if record is None or differences(target, record, wanted, files):
                raise BulkError(f"{target}: another run began another job there; choose another folder")
        plan = _read_plan(target, record)
        plan = replace(plan, files=_with_paths(plan.files, files))
        name = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
        with contextlib.nullcontext() if shard is None else _locked(target / JOB_FOLDER / f"lock{name}"):
            yield Job(target, record, plan, shard)


def differences(target: Path, record: Record, wanted: Wanted, files: Sequence[SourceFile]) -> list[str]:
    """Differences between a job and the options and files of a run, one line each."""
    found = []
    before, after = asdict(record.wanted), asdict(wanted)
    del before["model"], after["model"]
    meanings = before.pop("meaning"), after.pop("meaning")
    for old, new in ((before, after), meanings):
        found += [f"{name}: was {_shown(old[name])}, got {_shown(new[name])}" for name in old if old[name] != new[name]]
    if record.source != _digest(files):
        found += list(_changed_files(_read_plan(target, record).files, files))
    return found


def _current(
    target: Path, wanted: Wanted, files: Sequence[SourceFile], lock: "_HeldLock", *, restart: bool
) -> Record | None:
    """The record of the job that is there and the same; None if there is none.

    Raises:
        BulkError: It is another job, and `restart` is false.
    """
    until = time.monotonic() + _RESTART_SECONDS
    while True:
        record = _read_record(target)
        found = [] if record is None else differences(target, record, wanted, files)
        strange = _parts(target) if record is None else []
        if not found and not strange:
            return record
        if not restart:
            raise BulkError(_refusal(target, found, strange))
        if lock.alone(until):
            _delete(target)
            lock.share()
            return None


def _refusal(target: Path, found: list[str], strange: list[str]) -> str:
    remedy = "choose another folder, or run with --restart to start over"
    if strange:
        return f"{target}: expected no parts without a job, got {strange[0]}; {remedy}"
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{target}: the job there has another source or other options: {'; '.join(found[:_SHOWN])}{more}; {remedy}"


def _changed_files(old: Sequence[SourceFile], new: Sequence[SourceFile]) -> Iterator[str]:
    before, after = {file.name: file for file in old}, {file.name: file for file in new}
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"{name}: was there, is gone"
        elif name not in before:
            yield f"{name}: is new"
        elif (one := _state(before[name])) != (other := _state(after[name])):
            yield f"{name}: was {one}, got {other}"
    if [file.name for file in old] != [file.name for file in new] and set(before) == set(after):
        yield "the source: the files are in another order"


def _state(file: SourceFile) -> str:
    return f"{file.format} of {file.size} bytes at {file.version}"


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _digest(files: Sequence[SourceFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(json.dumps([file.name, file.format, file.size, file.version]).encode() + b"\n")
    return digest.hexdigest()


def _with_paths(planned: Sequence[SourceFile], found: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The planned files at the paths of this run: the source may have been moved."""
    return tuple(replace(one, path=other.path) for one, other in zip(planned, found, strict=True))


def _read_record(target: Path) -> Record | None:
    path = target / JOB_FOLDER / _RECORD
    try:
        value = read_json(path)
        if isinstance(value, dict) and value.get("format_version", _VERSION) != _VERSION:
            raise BulkError(
                f"{path}: expected version {_VERSION} of the format, got {value['format_version']!r}; use the embedrt "
                f"that made it ({value.get('made_with', {}).get('embedrt', 'unknown')})"
            )
        return decode(Record, value, _RECORD)
    except FileNotFoundError:
        return None
    except RecordError as error:
        raise BulkError(f"{path.parent}: {error}; delete the folder, and run with --restart") from error


def _read_plan(target: Path, record: Record) -> Plan:
    folder = target / JOB_FOLDER
    remedy = "delete the folder, and run with --restart"
    try:
        plan = read_plan(folder / _FILES, folder / _UNITS)
    except (OSError, ValueError) as error:
        raise BulkError(f"{folder}: the plan is damaged: {error}; {remedy}") from error
    if (_digest(plan.files), plan.rows, len(plan)) != (record.source, record.rows, record.units):
        raise BulkError(f"{folder}: the plan is damaged: it has not the files and units of {_RECORD}; {remedy}")
    return plan


def _create(target: Path, wanted: Wanted, files: Sequence[SourceFile], pieces: Pieces) -> None:
    """Plan a job and rename its folder into place, unless another run was first."""
    plan = make_plan(files, wanted.meaning.part_rows, pieces, alike)
    record = Record(_VERSION, wanted, _digest(files), len(plan.files), plan.rows, len(plan), versions())
    with staging(target / JOB_FOLDER) as fresh:
        folder = fresh / JOB_FOLDER
        folder.mkdir()
        write_plan(plan, folder / _FILES, folder / _UNITS)
        text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
        (folder / _RECORD).write_text(text + "\n", encoding="utf-8")
        sync(folder)
        try:
            folder.rename(target / JOB_FOLDER)
        except OSError:
            if not (target / JOB_FOLDER / _RECORD).exists():
                raise
        flush(target)


def _delete(target: Path) -> None:
    """Delete a job. Its parts go first: until they are gone, the folder is seen to be another job's."""
    for name in _parts(target):
        path = target / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if (target / JOB_FOLDER).exists():
        with staging(target / JOB_FOLDER) as fresh:
            (target / JOB_FOLDER).rename(fresh / JOB_FOLDER)


def _parts(target: Path) -> list[str]:
    """Names of all parts in a folder."""
    with os.scandir(target) as entries:
        return sorted(entry.name for entry in entries if parts.number_of(entry.name) is not None)


class _HeldLock:
    """A lock on a file, which the system releases at the end of the process.

    Args:
        path: The file.
        shared: Whether any number of runs may hold it.
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        self._shared = shared
        self._file = path.open("a+b", buffering=0)

    def take(self) -> Self:
        """Take the lock.

        Raises:
            BulkError: Another run has it.
        """
        if not self._try(shared=self._shared):
            who = _owner(self._path)
            self._file.close()
            raise BulkError(
                f"{self._path.parent}: another run uses the folder{who}; wait until it ends, or give each run a --shard"
            )
        if not self._shared:
            self._sign()
        return self

    def alone(self, until: float) -> bool:
        """Try to be the only one to have the lock; False if another run has it, to look again.

        Raises:
            BulkError: The time is over.
        """
        if not self._shared or self._try(shared=False):
            return True
        while True:
            if time.monotonic() > until:
                raise BulkError(f"{self._path.parent}: other runs use the folder; end them, then run with --restart")
            time.sleep(_POLL_SECONDS * (1 + os.getpid() % 16 / 16))  # two runs that wait for each other
            if self._try(shared=True):  # the failed attempt may have cost it
                return False

    def share(self) -> None:
        """Go back from `alone`."""
        if self._shared:
            self._try(shared=True)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def _try(self, *, shared: bool) -> bool:
        if shared and sys.platform == "win32":  # whose locks are all exclusive
            return True
        return try_lock(self._file.fileno(), shared=shared) is not Lock.BUSY

    def _sign(self) -> None:
        """Write who has the lock, for messages of others; Windows lets nobody read a locked file."""
        with contextlib.suppress(OSError):
            self._file.truncate(0)
            self._file.write(host().encode())


@contextlib.contextmanager
def _locked(path: Path, *, shared: bool = False) -> Iterator[_HeldLock]:
    with contextlib.closing(_HeldLock(path, shared=shared).take()) as lock:
        yield lock


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError):
        if name := path.read_text(errors="replace").strip():
            return f" ({name})"
    return ""

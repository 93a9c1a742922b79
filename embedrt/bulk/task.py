"""One unit from its rows to its part, here or on another machine. Neither the manifest nor a lock is touched."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from embedrt._version import __version__
from embedrt.bulk import parts, sources
from embedrt.bulk.formats import FORMATS
from embedrt.bulk.manifest import Line
from embedrt.bulk.options import Meaning
from embedrt.bulk.plan import SourceFile, Unit
from embedrt.bulk.reading import Reader, tables
from embedrt.bulk.rows import Places, RowError, of_file
from embedrt.bulk.transform import Facts, Known, Transform, Transformed
from embedrt.bundle.atomic import replace_files
from embedrt.bundle.disk import reason
from embedrt.bundle.staging import staging
from embedrt.errors import BulkError

JOB_FOLDER = "_job"
"""Everything but the parts; readers of folders skip names that begin with an underscore."""
ERRORS = "errors"
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers", "pyarrow")


@dataclass(frozen=True)
class Task:
    """A unit with what its computation needs.

    Attributes:
        target: The folder of the job.
        job: The digest of what decides the job's result.
        files: The source files.
        unit: The unit.
        meaning: The options that decide the result.
        fingerprint: The fingerprint of the vector space.
    """

    target: str
    job: str
    files: tuple[SourceFile, ...]
    unit: Unit
    meaning: Meaning
    fingerprint: str

    @property
    def pieces(self) -> Iterator[tuple[SourceFile, Unit]]:
        """Each file with the unit of the rows that are in it."""
        if len(self.files) == 1:
            yield self.files[0], self.unit
            return
        for file in self.files:
            if file.rows:
                yield file, replace(self.unit, start=0, stop=file.rows, offset=file.offset)

    @property
    def places(self) -> Places:
        """The places of the rows, for messages."""
        rows = (file.rows for file in self.files[:-1])
        return Places(tuple(file.name for file in self.files), tuple(accumulate(rows, initial=0)))

    @property
    def part(self) -> str:
        """The name of the part."""
        return parts.part_name(self.unit.number, self.meaning.part_format)


class Making:
    """A part in progress, in a `with` block. Without `commit`, nothing remains of it.

    Args:
        transform: The transform.
        task: The unit.
    """

    def __init__(self, transform: Transform, task: Task) -> None:
        self._transform = transform
        self._task = task
        self._stack = contextlib.ExitStack()
        self._part: parts.OpenPart | None = None
        self._facts = Facts()
        self._errors: list[RowError] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, outcome: Transformed) -> None:
        """Add the result of some rows.

        Raises:
            BulkError: The part cannot be written.
        """
        self._open(outcome.table.schema).write(outcome.table)
        self._facts += outcome.facts
        self._errors += outcome.errors

    def commit(self) -> Line:
        """Put the part in place: whoever sees it sees all of it, and nothing of it is lost with the power.

        Raises:
            BulkError: The source was changed since the plan was made, or the part cannot be written.
        """
        task = self._task
        part = self._part or self._open(self._transform.schema(schema_of(task.files[0])))
        check_unchanged(task.files)  # last of all, as files may be mapped into memory
        if self._facts.rows != task.unit.rows:
            raise BulkError(
                f"{task.files[0].name}: expected {task.unit.rows} rows from row {task.unit.start} on, got "
                f"{self._facts.rows}; run with --restart to plan the job again"
            )
        target = Path(task.target)
        try:
            _write_errors(target / JOB_FOLDER / ERRORS, task.unit.number, self._errors)
            return line_of(task, self._facts, part.commit(_record(task, self._facts)).sha256)
        except OSError as error:
            raise BulkError(f"{target}: writing {task.part} failed: {reason(error)}; the parts are whole") from error

    def _open(self, schema: Any) -> parts.OpenPart:
        if self._part is None:
            task = self._task
            opened = parts.open_part(
                Path(task.target), task.unit.number, schema, task.meaning.part_format, task.meaning.vector
            )
            self._part = self._stack.enter_context(opened)
        return self._part


def windows(transform: Transform, task: Task, reader: Reader) -> Iterator[Any]:
    """The rows of a unit, as `pyarrow.Table`s of bounded size, without columns that nobody wants.

    Raises:
        BulkError: A row cannot be read, a column is missing, or the source was changed.
    """
    try:
        columns = None
        if task.meaning.keep is not None:
            with of_file(task.files[0].name):
                columns = transform.columns(schema_of(task.files[0]))
        batches = (batch for file, unit in task.pieces for batch in reader.read(file, unit, columns))
        yield from tables(batches, transform.most_rows)
    except BulkError:
        check_unchanged(task.files)
        raise


def compute(transform: Transform, task: Task, reader: Reader, known: Known | None = None) -> Line:
    """Read a unit, encode it, and put its part in place.

    Args:
        transform: The transform.
        task: The unit.
        reader: The reader of this thread.
        known: A table of results.

    Raises:
        BulkError: A row has no result, the source was changed, or the part cannot be written.
    """
    row, places = task.unit.start, task.places
    with Making(transform, task) as making:
        for table in windows(transform, task, reader):
            making.add(transform(table, places=places, first_row=row, known=known))
            row += table.num_rows
        return making.commit()


def check_unchanged(files: Iterable[SourceFile]) -> None:
    """Check that source files are those of the plan.

    Raises:
        BulkError: One is another, or gone.
    """
    for file in files:
        try:
            size, found = sources.state(file.path)
        except OSError as error:
            raise BulkError(f"{file.name}: expected the file of the plan, got: {reason(error)}; put it back") from error
        if (size, found) != (file.size, file.version):
            raise BulkError(
                f"{file.name}: changed while the job ran, from {file.size} bytes at {file.version} to {size} bytes at "
                f"{found}; put the old file back, or run with --restart to start over"
            )


def line_of(task: Task, facts: Facts, sha256: str) -> Line:
    """The manifest line of a part that is in place."""
    path = Path(task.target) / task.part
    size, mtime_ns = parts.state_of(path)
    return Line(
        unit=task.unit.number,
        file=task.files[0].name,
        files=len(task.files),
        start=task.unit.start,
        stop=task.unit.stop,
        first_row=task.unit.first_row,
        part=task.part,
        size=size,
        mtime_ns=mtime_ns,
        sha256=sha256,
        fingerprint=task.fingerprint,
        versions=versions(),
        **asdict(facts),
    )


def adopted(task: Task) -> Line | None:
    """The line of a part that is in place without one, since its run was killed between the two; else None."""
    path = Path(task.target) / task.part
    if path.exists():
        found = parts.read_record(path)
        if isinstance(found, dict) and (found.get("job"), found.get("unit")) == (task.job, task.unit.number):
            return line_of(task, Facts(**found["facts"]), parts.sha256_of(path))
    return None


def _record(task: Task, facts: Facts) -> dict[str, Any]:
    """The record in a part, from which its line can be made again. Without times: equal vectors make equal files."""
    return {
        "job": task.job,
        "unit": task.unit.number,
        "file": task.files[0].name,
        "files": len(task.files),
        "start": task.unit.start,
        "stop": task.unit.stop,
        "facts": asdict(replace(facts, seconds=0.0)),
        "versions": dict(versions()),
    }


@lru_cache(maxsize=64)  # the types of JSON lines take a look at 4 MB
def schema_of(file: SourceFile) -> Any:
    """The `pyarrow.Schema` of a source file."""
    filesystem, path = sources.open_filesystem(file.path)
    return FORMATS[file.format].schema(path, filesystem)


def alike(one: SourceFile, other: SourceFile) -> bool:
    """Return True if the rows of two files may be in one part: they have the same columns."""
    return one.format == other.format and bool(schema_of(one).equals(schema_of(other)))


def _write_errors(folder: Path, number: int, errors: list[RowError]) -> None:
    """Write the errors of a unit before its part: who sees the part finds its errors."""
    path = folder / f"{number:08d}.jsonl"
    if not errors:
        path.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with staging(folder.parent / path.name) as fresh:
        with (fresh / path.name).open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(asdict(error), ensure_ascii=False) + "\n" for error in errors)
        replace_files(fresh, folder)


def read_errors(target: Path) -> Iterator[str]:
    """The lines of the errors of all units, in order."""
    for path in sorted((target / JOB_FOLDER / ERRORS).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from lines


@cache
def versions() -> dict[str, str]:
    """The packages that decide the numbers, with versions."""
    found = {"embedrt": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def host() -> str:
    """The process and the machine, for messages."""
    import platform

    return f"process {os.getpid()} on {platform.node()}"

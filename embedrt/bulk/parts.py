"""Part files: named by the number of their unit, written beside, flushed, renamed. The rename is the commit."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.options import PartFormat
from embedrt.bulk.writers import WRITERS, Writer
from embedrt.bundle.atomic import publish, replace_files
from embedrt.bundle.disk import bytes_in, explained
from embedrt.bundle.staging import staging
from embedrt.errors import BulkError

STAGING = ".unfinished"
"""The folder in the target where parts are written."""
BESIDE = (".json", ".parquet")
"""Endings after that of a part, of the files beside it."""


@dataclass(frozen=True)
class Part:
    """A whole part.

    Attributes:
        name: The name of the file.
        rows: Its rows.
        size: Its bytes.
        sha256: SHA-256 of the file.
    """

    name: str
    rows: int
    size: int
    sha256: str


class OpenPart:
    """A part that is written.

    Args:
        folder: The folder of the parts.
        path: The file, in a folder of its own.
        writer: Its writer.

    Attributes:
        rows: The rows so far.
        made: The part, once it is whole.
    """

    def __init__(self, folder: Path, path: Path, writer: Writer) -> None:
        self._folder, self._path, self._writer = folder, path, writer
        self.rows = 0
        self.made: Part | None = None

    def write(self, table: Any) -> None:
        """Write the rows of a `pyarrow.Table`."""
        with _disk(self._path, self._folder):
            self._writer.write(table)
        self.rows += table.num_rows

    def commit(self, record: Mapping[str, Any]) -> Part:
        """Finish the part, flush it to disk, and give it its name.

        Args:
            record: What is known of the part, from which its line in the manifest can be made again.
        """
        with _disk(self._path, self._folder):
            self._writer.close({**record, "rows": self.rows})
            beside = self._path.parent.parent / "beside"
            if beside.is_dir():  # first, so that a part is never without them
                replace_files(beside, self._folder)
            target = self._folder / self._path.name
            if self._path.is_dir():
                publish(self._path, target, overwrite=True)
            else:
                replace_files(self._path.parent, self._folder)
            made = Part(target.name, self.rows, state_of(target)[0], sha256_of(target))
        self.made = made
        return made


def part_name(number: int, part_format: PartFormat) -> str:
    """The name of the part of a unit; names sort as their units do."""
    return f"part-{number:08d}{WRITERS[part_format].SUFFIX}"


def number_of(name: str) -> int | None:
    """The number of the unit of a part; None for other files."""
    stem = name.partition(".")[0]
    digits = stem.removeprefix("part-")
    return int(digits) if stem.startswith("part-") and digits.isdecimal() and len(digits) >= 8 else None


@contextmanager
def open_part(folder: Path, number: int, schema: Any, part_format: PartFormat, vector: str) -> Iterator[OpenPart]:
    """A `with` block in which a part is written. Without `commit`, nothing remains of it.

    Args:
        folder: The folder of the parts.
        number: The number of the unit.
        schema: The `pyarrow.Schema` of the result.
        part_format: The format.
        vector: The column with the vectors.

    Raises:
        BulkError: The part cannot be written; the message has the system's reason.
    """
    name = part_name(number, part_format)
    with open_file(folder, folder / STAGING, name, schema, part_format, vector) as part:
        yield part


@contextmanager
def open_file(
    folder: Path, beside: Path, name: str, schema: Any, part_format: PartFormat, vector: str
) -> Iterator[OpenPart]:
    """A `with` block in which a file of vectors is written, as `open_part`.

    Args:
        folder: The folder of the file.
        beside: The folder where it is written.
        name: Its name.
        schema: The `pyarrow.Schema` of the result.
        part_format: The format.
        vector: The column with the vectors.
    """
    with staging(beside / name) as fresh:
        place = fresh / "part"
        place.mkdir()
        with _disk(place / name, folder):
            writer = WRITERS[part_format].open_part(place / name, schema, vector)
        part = OpenPart(folder, place / name, writer)
        try:
            yield part
        finally:
            if part.made is None:
                with suppress(OSError, pa.ArrowException):  # on a full disk; what ended the block is raised
                    writer.abandon()


def files_of(path: Path) -> list[Path]:
    """The files of a part: itself with those beside it, or everything in its folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    beside = (path.with_name(f"{path.name}{ending}") for ending in BESIDE)
    return [path, *(file for file in beside if file.exists())]


def sha256_of(path: Path) -> str:
    """SHA-256 of a part; of several files, over their names and hashes."""
    files = files_of(path)
    if files == [path]:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for one in files:
        with one.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{found} {one.relative_to(path.parent).as_posix()}\n".encode())
    return digest.hexdigest()


def state_of(path: Path) -> tuple[int, int]:
    """The bytes of a part, and its newest modification time in ns.

    Raises:
        OSError: It is not there.
    """
    statuses = [file.stat() for file in files_of(path)]
    return sum(status.st_size for status in statuses), max((status.st_mtime_ns for status in statuses), default=0)


def read_record(path: Path) -> Any:
    """The record of a part; None if it has none, or is damaged."""
    try:
        return WRITERS[format_of(path)].read_record(path)
    except (OSError, ValueError, pa.ArrowException):
        return None


def format_of(path: Path) -> PartFormat:
    """The format of a part, by its ending."""
    for name, one in WRITERS.items():
        if path.name.endswith(one.SUFFIX):
            return name  # type: ignore[return-value]  # the keys are the formats
    raise BulkError(f"{path}: expected a part that ends with {', '.join(one.SUFFIX for one in WRITERS.values())}")


@contextmanager
def _disk(path: Path, folder: Path) -> Iterator[None]:
    with explained(folder / path.name, bytes_in(path.parent), BulkError):
        yield

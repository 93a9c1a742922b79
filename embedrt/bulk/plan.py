"""The plan of a job: files, and units of their rows."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedrt.bulk.names import without_secrets
from embedrt.bundle.strict_json import decode, parse_json

_COLUMNS = 6
"""Columns of the table of units: file, start, stop, offset, first row, files."""
_START, _STOP = 1, 2

Pieces = Callable[["SourceFile", int], Iterator[tuple[int, int]]]
"""Function from a file and a number of rows to pieces of at most so many rows: their rows, and where they start."""
Alike = Callable[["SourceFile", "SourceFile"], bool]
"""Function that returns True if the rows of two files may be in one part."""


@dataclass(frozen=True)
class SourceFile:
    """One file of the source.

    Attributes:
        path: A path or URL.
        name: The name for messages, relative to the source.
        format: The key in `formats.FORMATS`.
        size: Bytes.
        version: What changes when the file does: modification time in ns, or the etag of a URL.
        rows: The number of rows; -1 before the file was planned.
        offset: The position of the first row, for formats that have one; else 0.
    """

    path: str
    name: str
    format: str
    size: int
    version: str
    rows: int = -1
    offset: int = 0


@dataclass(frozen=True)
class Unit:
    """Rows that become one part: a range of one file, or several small files, each whole.

    The number fixes the name of the part, and with it the order.

    Attributes:
        number: The number, from 0 on.
        file: The index of the first file in the plan.
        start: The first row in the file.
        stop: The row after the last; rows of further files are counted on.
        offset: The position of the first row in the file, for formats that have one; else 0.
        first_row: The number of the first row in the whole source.
        files: The number of files.
    """

    number: int
    file: int
    start: int
    stop: int
    offset: int
    first_row: int
    files: int = 1

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Plan:
    """Files and units. A unit takes 48 bytes: a job may have millions.

    Attributes:
        files: The files, in order.
        table: The units, int64 `[units, 6]`.
    """

    files: Sequence[SourceFile]
    table: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    def unit(self, number: int) -> Unit:
        """A unit by its number."""
        return Unit(number, *self.table[number].tolist())

    def files_of(self, unit: Unit) -> tuple[SourceFile, ...]:
        """The files of a unit."""
        return tuple(self.files[unit.file : unit.file + unit.files])

    def shares(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows of units, and their shares in the bytes of their files."""
        file, start, stop, _, _, files = self.table[numbers].T
        rows = stop - start
        of_files, size = self._sums[file + files].T - self._sums[file].T
        return rows, size * rows / np.maximum(of_files, 1)

    @cached_property
    def _sums(self) -> NDArray[np.int64]:
        """The rows and the bytes of all files before each file."""
        sizes = np.array([(0, 0), *((file.rows, file.size) for file in self.files)], np.int64)
        return sizes.cumsum(axis=0)


def make_plan(files: Iterable[SourceFile], part_rows: int, pieces: Pieces, alike: Alike) -> Plan:
    """Split large files into units, and gather small ones that are alike, as long as they have no more rows.

    Without any row there is one empty unit, so that the result has its columns.

    Args:
        files: The files, in order.
        part_rows: Rows of a unit, at most.
        pieces: Splits one file.
        alike: Decides if a file may follow another one in a unit.
    """
    planned: list[SourceFile] = []
    numbers = array("q")
    first_row = 0
    last: SourceFile | None = None  # whose unit has nothing but whole files, and may have more
    for index, file in enumerate(files):
        row = count = 0
        place = 0
        for rows, offset in pieces(file, part_rows):
            if rows:
                place = place if count else offset
                numbers.extend((index, row, row + rows, offset, first_row + row, 1))
                row, count = row + rows, count + 1
        first_row += row
        planned.append(replace(file, rows=row, offset=place))
        unit = numbers[-2 * _COLUMNS : -_COLUMNS]  # before that of this file
        if count == 1 and last is not None and unit[_STOP] - unit[_START] + row <= part_rows and alike(last, file):
            del numbers[-_COLUMNS:]
            numbers[_STOP - _COLUMNS] += row
            numbers[-1] = index + 1 - numbers[-_COLUMNS]
        if count:
            last = file if count == 1 else None
    if planned and not numbers:
        numbers.extend((0, 0, 0, 0, 0, 1))
    return Plan(tuple(planned), np.frombuffer(numbers, np.int64).reshape(-1, _COLUMNS))


def write_plan(plan: Plan, files: Path, units: Path) -> None:
    """Write the files of a plan as lines of JSON, without the secrets of URLs, and its units as an array."""
    with files.open("w", encoding="utf-8") as lines:
        for file in plan.files:
            record = asdict(replace(file, path=without_secrets(file.path)))
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    np.save(units, plan.table)


def read_plan(files: Path, units: Path) -> Plan:
    """Read what `write_plan` wrote; the units stay on disk until they are used.

    Raises:
        ValueError: One of the two is damaged.
        OSError: One of the two cannot be read.
    """
    with files.open("rb") as lines:
        found = tuple(decode(SourceFile, parse_json(line, files.name), files.name) for line in lines)
    try:
        table = np.load(units, mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"{units.name}: empty") from error
    if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != _COLUMNS:
        raise ValueError(f"{units.name}: expected int64 [units, {_COLUMNS}], got {table.dtype} {list(table.shape)}")
    first, files_of = table[:, 0], table[:, -1]
    if len(table) and (table.min() < 0 or files_of.min() < 1 or (first + files_of).max() > len(found)):
        raise ValueError(f"{units.name}: expected units of {len(found)} files")
    return Plan(found, table)

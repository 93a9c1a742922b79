"""The plan of a job: files, and units of their rows."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.strict_json import decode, parse_json

_COLUMNS = 5
"""Columns of the table of units: file, start, stop, offset, first row."""

Pieces = Callable[["SourceFile", int], Iterator[tuple[int, int]]]
"""Function from a file and a number of rows to pieces of at most so many rows: their rows, and where they start."""


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
    """

    path: str
    name: str
    format: str
    size: int
    version: str
    rows: int = -1


@dataclass(frozen=True)
class Unit:
    """Rows of one file that become one part. The number fixes the name of the part, and with it the order.

    Attributes:
        number: The number, from 0 on.
        file: The index of the file in the plan.
        start: The first row in the file.
        stop: The row after the last.
        offset: The position of the first row in the file, for formats that have one; else 0.
        first_row: The number of the first row in the whole source.
    """

    number: int
    file: int
    start: int
    stop: int
    offset: int
    first_row: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Plan:
    """Files and units. A unit takes 40 bytes: a job may have millions.

    Attributes:
        files: The files, in order.
        table: The units, int64 `[units, 5]`.
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

    def shares(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows of units, and their shares in the bytes of their files."""
        file, start, stop = self.table[numbers, :3].T
        rows = stop - start
        width = np.array([one.size / max(one.rows, 1) for one in self.files])
        return rows, rows * width[file]


def make_plan(files: Iterable[SourceFile], part_rows: int, pieces: Pieces) -> Plan:
    """Split files into units. Without any row there is one empty unit, so that the result has its columns.

    Args:
        files: The files, in order.
        part_rows: Rows of a unit, at most.
        pieces: Splits one file.
    """
    planned: list[SourceFile] = []
    numbers = array("q")
    first_row = 0
    for index, file in enumerate(files):
        row = 0
        for rows, offset in pieces(file, part_rows):
            if rows:
                numbers.extend((index, row, row + rows, offset, first_row))
                row, first_row = row + rows, first_row + rows
        planned.append(replace(file, rows=row))
    if planned and not numbers:
        numbers.extend((0, 0, 0, 0, 0))
    return Plan(tuple(planned), np.frombuffer(numbers, np.int64).reshape(-1, _COLUMNS))


def write_plan(plan: Plan, files: Path, units: Path) -> None:
    """Write the files of a plan as lines of JSON, and its units as an array."""
    with files.open("w", encoding="utf-8") as lines:
        _write_files(plan.files, lines)
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
    if len(table) and not 0 <= table[:, 0].min() <= table[:, 0].max() < len(found):
        raise ValueError(f"{units.name}: expected units of {len(found)} files")
    return Plan(found, table)


def _write_files(files: Sequence[SourceFile], lines: IO[str]) -> None:
    for file in files:
        lines.write(json.dumps(asdict(file), ensure_ascii=False) + "\n")

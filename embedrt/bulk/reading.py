"""`Reader`: the rows of units. It keeps its place in a file, so that units in order are read once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.formats import FORMATS
from embedrt.bulk.formats.blocks import COMPRESSIONS
from embedrt.bulk.plan import SourceFile, Unit
from embedrt.bulk.sources import open_filesystem
from embedrt.errors import BulkError

# Rows of a local file that are read in vain, rather than those from the start of a row group on.
_SKIPPED_ROWS = 1 << 17
_COMPRESSED = tuple(COMPRESSIONS)
# About the bytes of the rows that are handled together.
_BYTES = 1 << 25


@dataclass(eq=False)
class _Place:
    """A place in an open file.

    Attributes:
        key: The file and the columns.
        batches: The batches from there on.
        row: The row of the first of them.
        rest: Batches to read first.
    """

    key: tuple[SourceFile, tuple[str, ...] | None]
    batches: Iterator[Any]
    row: int
    rest: list[Any] = field(default_factory=list)


class Reader:
    """Reader of units. For one thread at a time."""

    def __init__(self) -> None:
        self._place: _Place | None = None

    def read(self, file: SourceFile, unit: Unit, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Read the rows of a unit as `pyarrow.RecordBatch`es.

        Args:
            file: The file.
            unit: The rows.
            columns: The columns; None reads all.

        Raises:
            BulkError: The file cannot be read, or has fewer rows.
        """
        place = self._at(file, unit, None if columns is None else tuple(columns))
        missing = unit.stop - place.row
        while missing:
            batch = place.rest.pop() if place.rest else next(place.batches, None)
            if batch is None:
                raise BulkError(
                    f"{file.name}: expected {unit.stop} rows or more, got {place.row}; it was replaced since the job "
                    "was planned"
                )
            if batch.num_rows > missing:
                place.rest.append(batch.slice(missing))
                batch = batch.slice(0, missing)
            skipped = max(0, min(unit.start - place.row, batch.num_rows))
            place.row += batch.num_rows
            missing -= batch.num_rows
            if skipped < batch.num_rows:
                yield batch.slice(skipped)
        self._place = place

    def _at(self, file: SourceFile, unit: Unit, columns: tuple[str, ...] | None) -> _Place:
        """The place at a unit, or the last one in the same file if the rows between are soon read."""
        place, self._place = self._place, None  # an iterator that is abandoned leaves no place
        if place is not None and place.key == (file, columns):
            gap = unit.start - place.row
            most = 0 if "://" in file.path else _SKIPPED_ROWS
            if 0 <= gap <= most or (gap > 0 and file.name.endswith(_COMPRESSED)):
                return place
        filesystem, path = open_filesystem(file.path)
        batches = FORMATS[file.format].stream(
            file, path, filesystem, row=unit.start, offset=unit.offset, columns=columns
        )
        return _Place((file, columns), batches, unit.start)

    def close(self) -> None:
        """Close the file."""
        self._place = None


def tables(batches: Iterable[Any], rows: int, size: int = _BYTES) -> Iterator[Any]:
    """Gather record batches into `pyarrow.Table`s.

    Args:
        batches: The batches.
        rows: Rows of a table, at most.
        size: Bytes of a table; only the last batch of a table goes beyond them.
    """
    gathered: list[Any] = []
    count = held = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, rows - count)
            start += part.num_rows
            gathered.append(part)
            count += part.num_rows
            held += part.nbytes
            if count == rows or held >= size:
                yield pa.Table.from_batches(gathered)
                gathered, count, held = [], 0, 0
    if gathered:
        yield pa.Table.from_batches(gathered)

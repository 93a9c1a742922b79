"""CSV and TSV with a header, in UTF-8. Values are strings as they are; blank lines are skipped."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.formats import blocks
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.rows import MESSAGES, check_names
from embedrt.bulk.texts import not_utf8, unreadable

_BATCH_ROWS = 1024
# The limit of Python's module is 128 kB for all readers of the process.
_LARGEST_FIELD = (1 << 31) - 1


@dataclass(frozen=True)
class Separated:
    """Values with a separator; see `Format`.

    Attributes:
        separator: The character between values.
    """

    separator: str

    def pieces(self, path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
        """See `Format`."""
        records = self._records(path, path, filesystem, 0)
        _, start = next(records, ([], 0))  # the header
        count = 0
        for _, end in records:
            count += 1
            if count == rows:
                yield count, start
                start, count = end, 0
        if count:
            yield count, start

    def schema(self, path: str, filesystem: Any) -> Any:
        """See `Format`."""
        header = next((values for values, _ in self._records(path, path, filesystem, 0)), [])
        check_names(path, header)
        return pa.schema([pa.field(name, pa.string()) for name in header])

    def stream(
        self, file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
    ) -> Iterator[Any]:
        """See `Format`."""
        del row
        names = self.schema(path, filesystem).names
        wanted = range(len(names)) if columns is None else [names.index(name) for name in columns if name in names]
        gathered: list[list[str]] = []
        for values, _ in self._records(file.name, path, filesystem, offset):
            gathered.append(values)
            if len(gathered) == _BATCH_ROWS:
                yield _batch(gathered, names, wanted)
                gathered = []
        if gathered:
            yield _batch(gathered, names, wanted)

    def _records(self, name: str, path: str, filesystem: Any, offset: int) -> Iterator[tuple[list[str], int]]:
        """The values of each record and its end in bytes. Bytes that are no text are surrogates.

        A damaged record has no values.

        Args:
            name: The name of the file, for messages.
            path: The path on the filesystem.
            filesystem: A `pyarrow.fs.FileSystem`.
            offset: The start of a record; 0 for the header.
        """
        if csv.field_size_limit() < _LARGEST_FIELD:
            csv.field_size_limit(_LARGEST_FIELD)
        offset = offset or blocks.starts_of(name, path, filesystem)
        end = offset

        def lines() -> Iterator[str]:
            nonlocal end
            for block in blocks.blocks(name, path, filesystem, offset):
                start = 0
                for stop in blocks.line_ends(block).tolist():
                    end += stop - start
                    yield block[start:stop].decode(errors="surrogateescape")
                    start = stop

        records = csv.reader(lines(), delimiter=self.separator)
        while True:
            try:
                values = next(records, None)
            except csv.Error:
                yield [], end
                continue
            if values is None:
                return
            if values:
                yield values, end


def _batch(records: Sequence[Sequence[str | None]], names: list[str], wanted: Sequence[int]) -> Any:
    """Some rows, with a message for each that cannot be read."""
    messages: dict[int, str] = {}
    width = len(names)
    for i, values in enumerate(records):
        if len(values) != width:
            messages[i] = unreadable(None, f"expected {width} values, got {len(values)}")
    empty: list[str | None] = [None] * width
    rows = [empty if i in messages else values for i, values in enumerate(records)]
    columns = []
    for place in wanted:
        values = [row[place] for row in rows]
        try:
            column = pa.array(values, pa.string())
        except UnicodeEncodeError:
            column = pa.array(_texts(values, names[place], messages), pa.string())
        columns.append(column)
    columns.append(pa.array([messages.get(i) for i in range(len(records))], pa.string()))
    return pa.record_batch(columns, names=[*(names[place] for place in wanted), MESSAGES])


def _texts(values: Sequence[str | None], name: str, messages: dict[int, str]) -> list[str | None]:
    """The values that are text; the others are null, with a message."""
    kept: list[str | None] = []
    for i, value in enumerate(values):
        try:
            kept.append(None if value is None else value.encode(errors="surrogateescape").decode())
        except UnicodeDecodeError as error:
            kept.append(None)
            messages.setdefault(i, unreadable(name, not_utf8(error)))
    return kept


CSV, TSV = Separated(","), Separated("\t")
"""The two formats."""

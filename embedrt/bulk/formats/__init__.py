"""Formats of source files, one module each. `FORMATS` has them by name; a reader streams Arrow record batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from embedrt.bulk.formats import arrow, csv, jsonl, lines, parquet
from embedrt.bulk.plan import SourceFile


class Format(Protocol):
    """The reader of a format; a module is one."""

    def pieces(self, path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
        """Split a file without reading more of it than needed.

        Args:
            path: The path on the filesystem.
            filesystem: A `pyarrow.fs.FileSystem`.
            rows: Rows of a piece, at most.

        Yields:
            The number of rows of each piece, and where it starts in the file: a byte after decompression, or 0 for
            formats with an index.
        """

    def schema(self, path: str, filesystem: Any) -> Any:
        """The `pyarrow.Schema` of a file; of formats without one, of their first rows."""

    def stream(
        self, file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
    ) -> Iterator[Any]:
        """Read a file from a row on, as `pyarrow.RecordBatch`es.

        Args:
            file: The file, for messages.
            path: The path on the filesystem.
            filesystem: A `pyarrow.fs.FileSystem`.
            row: The first row; the start of a piece.
            offset: Where it starts, from `pieces`.
            columns: The columns; None reads all.

        Raises:
            BulkError: The file cannot be read; the message has its name and the row.
        """


FORMATS: Mapping[str, Format] = {
    "parquet": parquet,
    "arrow": arrow,
    "jsonl": jsonl,
    "csv": csv.CSV,
    "tsv": csv.TSV,
    "lines": lines,
}
"""The formats by name."""

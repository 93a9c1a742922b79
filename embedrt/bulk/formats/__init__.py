"""Formats of source files, one module each. `FORMATS` has them by name; a reader streams Arrow record batches."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from embedrt.bulk.plan import SourceFile, Unit


class Format(Protocol):
    """The reader of a format."""

    def pieces(self, path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
        """Split a file without reading more of it than needed.

        Args:
            path: The path on the filesystem.
            filesystem: A `pyarrow.fs.FileSystem`.
            rows: Rows of a piece, at most.

        Yields:
            The number of rows of each piece, and where it starts in the file: a byte, or 0 for formats with an index.
        """

    def schema(self, path: str, filesystem: Any) -> Any:
        """The `pyarrow.Schema` of a file; of formats without one, of their first rows."""

    def read(self, file: SourceFile, unit: Unit, filesystem: Any, columns: Sequence[str] | None) -> Iterator[Any]:
        """Read the rows of a unit as `pyarrow.RecordBatch`es, some columns or all.

        Raises:
            BulkError: A row cannot be read; the message has file, row and column.
        """

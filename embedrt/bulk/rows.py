"""Rows that cannot be read or computed, with their place in the source."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from embedrt.bulk.names import printable
from embedrt.errors import BulkError

MESSAGES = "__embedrt_error__"
"""The column in which readers of text formats say why a row has no values; null for all other rows."""
REMEDY = "correct the row, or leave it out with --on-error null or skip"


def check_names(file: str, names: Sequence[str]) -> None:
    """Check the column names of a source file.

    Raises:
        BulkError: One of them is reserved, or no text.
    """
    for name in names:
        if name == MESSAGES:
            raise BulkError(
                f"{printable(file)}: column {name!r}: expected another name, as embedrt uses this one; rename it"
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BulkError(
                f"{printable(file)}: column {name!r}: expected a name in UTF-8, got other bytes; rename it"
            ) from None


@contextmanager
def of_file(name: str) -> Iterator[None]:
    """Put the name of a file before messages about its columns; "" for a table that has none."""
    try:
        yield
    except BulkError as error:
        if not name:
            raise
        raise BulkError(f"{name}: {error}") from error


@dataclass(frozen=True)
class RowError:
    """A row without a result.

    Attributes:
        file: The name of the file.
        row: The row in the file, from 0 on.
        column: The column, or None.
        message: Expected, found, remedy.
    """

    file: str
    row: int
    column: str | None
    message: str

    def __str__(self) -> str:
        column = "" if self.column is None else f", column {self.column!r}"
        return f"{self.file or 'table'}, row {self.row}{column}: {self.message}"

    def raised(self) -> BulkError:
        """The error of a job that ends with this row."""
        return BulkError(f"{self}; {REMEDY}")


@dataclass(frozen=True)
class Places:
    """Places of rows in the source: several files, one after the other.

    Attributes:
        files: The names of the files.
        starts: The row at which each file begins; the first one is 0.
    """

    files: tuple[str, ...] = ("",)
    starts: tuple[int, ...] = (0,)

    def error(self, row: int, column: str | None, message: str) -> RowError:
        """The error of a row, counted from the start of the first file."""
        at = bisect_right(self.starts, row) - 1
        return RowError(self.files[at], row - self.starts[at], column, message)


TABLE = Places()
"""The places of a table that is no part of a file."""

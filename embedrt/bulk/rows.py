"""Rows that cannot be read or computed, with their place in the source."""

from dataclasses import dataclass

from embedrt.errors import BulkError

MESSAGES = "__embedrt_error__"
"""The column in which readers of text formats say why a row has no values; null for all other rows."""
REMEDY = "correct the row, or leave it out with --on-error null or skip"


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

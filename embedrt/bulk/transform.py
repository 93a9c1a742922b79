"""`Transform`: a table of texts to a table with vectors. Every engine calls it, here and on other machines."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from embedrt.bulk.options import Meaning, ModelChoice


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


@dataclass(frozen=True)
class Facts:
    """Numbers about some rows.

    Attributes:
        rows: Rows of the source.
        written: Rows of the result.
        tokens: Tokens that the model read.
        truncated: Texts that were truncated.
        duplicates: Texts that were not encoded again.
        failed: Rows without a result.
        seconds: Seconds of the model.
    """

    rows: int = 0
    written: int = 0
    tokens: int = 0
    truncated: int = 0
    duplicates: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Transformed:
    """The outcome of a table.

    Attributes:
        table: The `pyarrow.Table` with the kept columns and the result.
        errors: The rows without a result, if `on_error` is not "fail".
        facts: Numbers.
    """

    table: Any
    errors: list[RowError] = field(default_factory=list)
    facts: Facts = Facts()


class Transform:
    """A table of texts to a table with vectors. Picklable: a copy in another process opens the model again.

    Args:
        model: The model.
        meaning: The options that decide the result.

    Attributes:
        fingerprint: The fingerprint of the vector space.
    """

    def __init__(self, model: ModelChoice, meaning: Meaning) -> None:
        self.model = model
        self.meaning = meaning

    def schema(self, source: Any) -> Any:
        """The `pyarrow.Schema` of the result, for the one of the source; checks the columns.

        Raises:
            BulkError: A column is missing, or has another type.
        """
        raise NotImplementedError

    def __call__(
        self, table: Any, *, file: str = "", first_row: int = 0, known: Callable[[list[bytes]], Any] | None = None
    ) -> Transformed:
        """Encode the texts of a table.

        Args:
            table: A `pyarrow.Table`.
            file: The name of the file, for messages.
            first_row: The row of the file that is the first of the table.
            known: Function from hashes of texts to vectors that are there already, for duplicates and caches.

        Raises:
            BulkError: A row has no result, and `on_error` is "fail"; the message has file, row and column.
        """
        raise NotImplementedError

"""Formats of parts, one module each. `WRITERS` has them by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from embedrt.bulk.writers import arrow, jsonl, lance, npy, parquet


class Writer(Protocol):
    """An open part."""

    def write(self, table: Any) -> None:
        """Write some rows, a `pyarrow.Table`."""

    def close(self, record: Mapping[str, Any]) -> None:
        """Finish the part.

        Args:
            record: What is known of the part: JSON, stored in it or beside it.
        """

    def abandon(self) -> None:
        """Close the files of a part that is not wanted."""


class WriterFormat(Protocol):
    """A format of parts; a module is one.

    Attributes:
        SUFFIX: The ending of a part.
    """

    SUFFIX: str

    def open_part(self, path: Path, schema: Any, vector: str) -> Writer:
        """Start a part.

        Args:
            path: The file, whose folder has nothing else; writers may put more files beside it.
            schema: The `pyarrow.Schema`, with the metadata of the job.
            vector: The column with the vectors.
        """

    def read_record(self, path: Path) -> Any:
        """The record of a part, or None if it has none.

        Raises:
            OSError: The part cannot be read.
        """

    def read_schema(self, path: Path) -> Any:
        """The `pyarrow.Schema` of a part, with the metadata of the job.

        Raises:
            OSError: The part cannot be read.
        """

    def read_part(self, path: Path) -> Any:
        """The rows of a part, as an iterator of `pyarrow.RecordBatch`es.

        Raises:
            OSError: The part cannot be read.
        """


WRITERS: Mapping[str, WriterFormat] = {"parquet": parquet, "arrow": arrow, "jsonl": jsonl, "npy": npy, "lance": lance}
"""The formats by name."""

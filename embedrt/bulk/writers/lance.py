"""Parts as Lance data sets: folders, which the package pylance writes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.errors import MissingDependencyError

SUFFIX = ".lance"
RECORD = "embedrt.part.json"
"""A file in the folder, with the record of the part."""


class Part:
    """An open part; see `Writer`.

    Args:
        path: The folder.
        schema: The schema.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._lance = _lance()
        self._path, self._schema = path, schema
        self._mode = "create"

    def write(self, table: Any) -> None:
        """See `Writer`."""
        self._lance.write_dataset(table.cast(self._schema), str(self._path), mode=self._mode)
        self._mode = "append"

    def close(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        if self._mode == "create":
            self.write(self._schema.empty_table())
        (self._path / RECORD).write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")

    def abandon(self) -> None:
        """See `Writer`."""


def open_part(path: Path, schema: Any, vector: str) -> Part:
    """See `WriterFormat`."""
    del vector
    return Part(path, schema)


def read_record(path: Path) -> Any:
    """See `WriterFormat`."""
    record = path / RECORD
    return json.loads(record.read_bytes()) if record.is_file() else None


def read_schema(path: Path) -> Any:
    """See `WriterFormat`."""
    try:
        return _lance().dataset(str(path)).schema
    except (ValueError, pa.ArrowException) as error:
        raise OSError(str(error)) from error


def read_part(path: Path) -> Iterator[Any]:
    """See `WriterFormat`."""
    try:
        yield from _lance().dataset(str(path)).to_batches(batch_size=1024)
    except (ValueError, pa.ArrowException) as error:
        raise OSError(str(error)) from error


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise MissingDependencyError("pylance is not installed; run `pip install pylance`") from error
    return lance

"""Parts in Arrow's file format, which is also Feather. It has one dictionary a column, so that values are plain."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import pa

SUFFIX = ".arrow"
RECORD = b"embedrt.part"
"""Key of a part's record in the metadata of its last batch, which is empty."""


class Part:
    """An open part; see `Writer`.

    Args:
        path: The file.
        schema: The schema.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema = pa.schema([_plain(field) for field in schema], schema.metadata)
        self._writer = pa.ipc.new_file(path, self._schema)

    def write(self, table: Any) -> None:
        """See `Writer`."""
        self._writer.write_table(table.cast(self._schema))

    def close(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        columns = [pa.array([], field.type) for field in self._schema]
        empty = pa.record_batch(columns, schema=self._schema)
        self._writer.write_batch(empty, custom_metadata={RECORD: json.dumps(record, ensure_ascii=False).encode()})
        self._writer.close()

    def abandon(self) -> None:
        """See `Writer`."""
        self._writer.close()


def _plain(field: Any) -> Any:
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def open_part(path: Path, schema: Any, vector: str) -> Part:
    """See `WriterFormat`."""
    del vector
    return Part(path, schema)


def read_record(path: Path) -> Any:
    """See `WriterFormat`."""
    with pa.OSFile(str(path)) as source:
        file = pa.ipc.open_file(source)
        if not file.num_record_batches:
            return None
        _, metadata = file.get_batch_with_custom_metadata(file.num_record_batches - 1)
    raw = None if metadata is None else metadata.get(RECORD)
    return None if raw is None else json.loads(raw)


def read_schema(path: Path) -> Any:
    """See `WriterFormat`."""
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_file(source).schema


def read_part(path: Path) -> Iterator[Any]:
    """See `WriterFormat`."""
    with pa.OSFile(str(path)) as source:
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
        yield from (batch for batch in batches if batch.num_rows)

"""Parts in Parquet."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import pa, pq

SUFFIX = ".parquet"
RECORD = "embedrt.part"
"""Key of a part's record in its metadata."""

WIDTH = b"embedrt.width"
"""Key of the width of vectors in the metadata of their column, where the file has lists of any length."""

# Of a row group: readers hold one in memory.
_GROUP_BYTES = 1 << 25


class Part:
    """An open part; see `Writer`.

    Vectors of which some may be null are lists of any length: before pyarrow 26, a null among fixed-size lists in
    Parquet cannot be read.

    Args:
        path: The file.
        schema: The schema.
        vector: The column with the vectors; None if there is none.
    """

    def __init__(self, path: Path, schema: Any, vector: str | None) -> None:
        schema = pa.schema([_stored(field) if field.name == vector else field for field in schema], schema.metadata)
        # Parquet stores a byte as 4 bytes; a dictionary of its 256 values stores it as one. Floats gain nothing from
        # a dictionary or compression.
        kinds = {} if vector is None else dict(_leaves(vector, schema.field(vector).type))
        packed = [name for name, kind in kinds.items() if pa.types.is_integer(kind)]
        others = [name for field in schema if field.name != vector for name, _ in _leaves(field.name, field.type)]
        plain = [name for name in kinds if name not in packed]
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=[*packed, *others],
            compression={**dict.fromkeys([*packed, *others], "snappy"), **dict.fromkeys(plain, "none")},
            write_statistics=others,
            write_page_checksum=True,
        )

    def write(self, table: Any) -> None:
        """See `Writer`."""
        rows = max(1, table.num_rows * _GROUP_BYTES // max(table.nbytes, 1))
        self._writer.write_table(table.cast(self._schema), row_group_size=rows)

    def close(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        self._writer.add_key_value_metadata({RECORD: json.dumps(record, ensure_ascii=False)})
        self._writer.close()

    def abandon(self) -> None:
        """See `Writer`."""
        self._writer.close()


def open_part(path: Path, schema: Any, vector: str) -> Part:
    """See `WriterFormat`."""
    return Part(path, schema, vector)


def read_record(path: Path) -> Any:
    """See `WriterFormat`."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise OSError(str(error)) from error
    raw = metadata.get(RECORD.encode())
    return None if raw is None else json.loads(raw)


def read_schema(path: Path) -> Any:
    """See `WriterFormat`."""
    try:
        return _restored(pq.read_schema(path))
    except pa.ArrowInvalid as error:
        raise OSError(str(error)) from error


def read_part(path: Path) -> Iterator[Any]:
    """See `WriterFormat`."""
    with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
        schema = _restored(file.schema_arrow)
        for batch in file.iter_batches(1024, use_threads=False):
            yield batch.cast(schema)


def _stored(field: Any) -> Any:
    """The field of vectors in a file."""
    if not (field.nullable and pa.types.is_fixed_size_list(field.type)):
        return field
    metadata = {**(field.metadata or {}), WIDTH: str(field.type.list_size).encode()}
    return field.with_type(pa.list_(field.type.value_type)).with_metadata(metadata)


def _restored(schema: Any) -> Any:
    """The schema of a part, for that of its file."""
    fields = []
    for field in schema:
        metadata = dict(field.metadata or {})
        width = metadata.pop(WIDTH, None)
        kind = field.type if width is None else pa.list_(field.type.value_type, int(width))
        fields.append(field.with_type(kind).with_metadata(metadata or None))
    return pa.schema(fields, schema.metadata)


def _leaves(name: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """The paths of the Parquet columns of an Arrow column, with their types."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{name}.key_value.key", kind.key_type)
        yield from _leaves(f"{name}.key_value.value", kind.item_type)
    elif hasattr(kind, "value_type") and not pa.types.is_dictionary(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    else:
        yield name, kind

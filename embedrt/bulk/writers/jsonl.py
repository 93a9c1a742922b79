"""Parts as lines of JSON. Floats have as many digits as their type needs."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import pa, pc
from embedrt.bulk.writers import beside

SUFFIX = ".jsonl"

# Numbers in text form take some ten bytes each, in memory too.
_ROWS = 1024


class Part:
    """An open part; see `Writer`.

    Args:
        path: The file.
        schema: The schema.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._path, self._schema = path, schema
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, table: Any) -> None:
        """See `Writer`."""
        for start in range(0, table.num_rows, _ROWS):
            rows = table.slice(start, _ROWS).combine_chunks()
            names = [json.dumps(name, ensure_ascii=False) for name in rows.column_names]
            columns = [_texts(column.chunk(0)) for column in rows.columns]
            self._file.writelines(
                "{" + ", ".join(map(": ".join, zip(names, values, strict=True))) + "}\n"
                for values in zip(*columns, strict=True)
            )

    def close(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        self._file.close()
        beside.write_record(self._path, self._schema, record)

    def abandon(self) -> None:
        """See `Writer`."""
        self._file.close()


def open_part(path: Path, schema: Any, vector: str) -> Part:
    """See `WriterFormat`."""
    del vector
    return Part(path, schema)


read_record, read_schema = beside.read_record, beside.read_schema


def read_part(path: Path) -> Iterator[Any]:
    """See `WriterFormat`."""
    schema = beside.read_schema(path)
    with path.open(encoding="utf-8") as lines:
        rows: list[Any] = []
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == _ROWS:
                yield _batch(rows, schema)
                rows = []
        if rows:
            yield _batch(rows, schema)


def _batch(rows: list[dict[str, Any]], schema: Any) -> Any:
    return pa.record_batch([_column([row[one.name] for row in rows], one.type) for one in schema], schema=schema)


def _column(values: list[Any], kind: Any) -> Any:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = [None if value is None else base64.b64decode(value) for value in values]
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.string()).cast(kind)
    return pa.array(values, kind)


def _texts(column: Any) -> list[str]:
    """The JSON of each value of an array."""
    if (vectors := _vectors(column)) is not None:
        return vectors
    kind = column.type
    if pa.types.is_temporal(kind):
        column = column.cast(pa.string())
    return [json.dumps(_plain(value), ensure_ascii=False, default=str) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    """A value that JSON has: bytes are base64, NaN and infinity are null."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _vectors(column: Any) -> list[str] | None:
    """The JSON of numbers, lists of them, and structs of these, by pyarrow; None for other types."""
    kind = column.type
    if pa.types.is_struct(kind):
        names = [json.dumps(one.name, ensure_ascii=False) for one in kind]
        parts = [_vectors(part) for part in column.flatten()]
        if not parts or any(part is None for part in parts):
            return None
        rows = zip(*(part for part in parts if part is not None), strict=True)
        found = ["{" + ", ".join(map(": ".join, zip(names, values, strict=True))) + "}" for values in rows]
        return ["null" if is_null else text for is_null, text in zip(column.is_null().to_pylist(), found, strict=True)]
    joined = _joined(column)
    return None if joined is None else ["null" if text is None else text for text in joined.to_pylist()]


def _joined(column: Any) -> Any:
    """The JSON of floats and lists of them as an array of strings; None for other types."""
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        if pa.types.is_float16(kind):
            column = column.cast(pa.float32())
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_finite(column), column, None)
        return column.cast(pa.string())
    if pa.types.is_fixed_size_list(kind):
        column = column.cast(pa.list_(kind.value_type))
    elif not pa.types.is_list(kind):
        return None
    values = _joined(column.flatten())
    if values is None or values.null_count:
        return None
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = pa.array([0, *pc.cumulative_sum(lengths).to_pylist()], pa.int32())
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, values), ", ")
    texts = pc.binary_join_element_wise("[", texts, "]", "")
    return pc.if_else(column.is_null(), pa.scalar(None, pa.string()), texts)

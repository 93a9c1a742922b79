"""Parts as a matrix in NumPy's format, with the other columns in Parquet beside it.

`numpy.load(path, mmap_mode="r")` maps the matrix. A row without a result is NaN in floats, and zeros
in bytes. Only dense vectors and scores are matrices.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bulk.arrow import pa
from embedrt.bulk.writers import beside, parquet
from embedrt.errors import BulkError

SUFFIX = ".npy"
COLUMNS = ".parquet"
"""The ending, after that of the part, of the file with the other columns."""

# A header of this length fits any number of rows, and is what numpy writes for most.
_HEADER = 128


class Part:
    """An open part; see `Writer`.

    Args:
        path: The file.
        schema: The schema.
        vector: The column with the vectors.
    """

    def __init__(self, path: Path, schema: Any, vector: str) -> None:
        self._path, self._schema, self._vector = path, schema, vector
        kind = schema.field(vector).type
        self._width = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
        value = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
        if not (pa.types.is_floating(value) or pa.types.is_integer(value)):
            raise BulkError(f"part_format: 'npy' holds fixed-size vectors of numbers, got {kind}; use 'parquet'")
        self._dtype = np.dtype(value.to_pandas_dtype())
        self._rows = 0
        self._others = [name for name in schema.names if name != vector]
        fields = [schema.field(name) for name in self._others]
        name = f"{path.name}{COLUMNS}"
        # Without a column, rows have no number in Parquet.
        self._columns = parquet.Part(beside.folder_beside(path) / name, pa.schema(fields), None) if fields else None
        self._file = path.open("w+b")
        self._file.write(bytes(_HEADER))

    def write(self, table: Any) -> None:
        """See `Writer`."""
        for chunk in table.column(self._vector).chunks:
            self._file.write(self._matrix(chunk).reshape(-1).data)
        self._rows += table.num_rows
        if self._columns is not None:
            self._columns.write(table.select(self._others))

    def _matrix(self, chunk: Any) -> NDArray[Any]:
        matrix = np.full((len(chunk), self._width), np.nan if self._dtype.kind == "f" else 0, self._dtype)
        present = chunk.drop_null()
        values = present.flatten() if pa.types.is_fixed_size_list(chunk.type) else present
        matrix[chunk.is_valid().to_numpy(zero_copy_only=False)] = values.to_numpy().reshape(-1, self._width)
        return matrix

    def close(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        self._file.seek(0)
        shape = (self._rows, self._width)
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, self._width), self._dtype))
        np.lib.format.write_array_header_1_0(self._file, {**header, "shape": shape})
        if self._file.tell() != _HEADER:
            raise BulkError(f"{self._path.name}: expected a header of {_HEADER} bytes, got {self._file.tell()}")
        self._file.close()
        if self._columns is not None:
            self._columns.close({})
        beside.write_record(self._path, self._schema, record)

    def abandon(self) -> None:
        """See `Writer`."""
        self._file.close()
        if self._columns is not None:
            self._columns.abandon()


def open_part(path: Path, schema: Any, vector: str) -> Part:
    """See `WriterFormat`."""
    return Part(path, schema, vector)


read_record, read_schema = beside.read_record, beside.read_schema


def read_part(path: Path) -> Iterator[Any]:
    """See `WriterFormat`. A row without a result is null again in floats."""
    schema = beside.read_schema(path)
    columns = path.with_name(f"{path.name}{COLUMNS}")
    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if not columns.is_file():
        (name,) = schema.names
        for start in range(0, len(matrix), 1024):
            yield pa.record_batch([_array(matrix[start : start + 1024], schema.field(name).type)], schema=schema)
        return
    start = 0
    for batch in parquet.read_part(columns):
        rows = matrix[start : start + batch.num_rows]
        arrays = {name: batch.column(name) for name in batch.schema.names}
        yield pa.record_batch(
            [arrays[one.name] if one.name in arrays else _array(rows, one.type) for one in schema], schema=schema
        )
        start += batch.num_rows


def _array(rows: NDArray[Any], kind: Any) -> Any:
    missing = np.isnan(rows).all(axis=1) if rows.dtype.kind == "f" else np.zeros(len(rows), bool)
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(flat.to_numpy(), mask=missing)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(missing))

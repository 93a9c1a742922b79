"""Rows of a part as databases take them: an id, a vector and the other columns."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bulk.arrow import pa
from embedrt.bulk.options import Meaning
from embedrt.errors import BulkError

CHUNK = "chunk"
ID = "id"


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows with a vector.

    Attributes:
        ids: The ids, each once: ints that are not negative, or strs.
        vectors: float32 `[rows, dim]`.
        others: The `pyarrow.Table` of the other columns, without a column of ids.
    """

    ids: list[int] | list[str]
    vectors: NDArray[np.float32]
    others: Any

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Layout:
    """The columns of a table in a database.

    Attributes:
        dim: Coordinates of a vector.
        fingerprint: The fingerprint of the vector space.
        vector: The name of the vectors.
        numbers: Whether ids are whole numbers; else strs.
        others: The `pyarrow.Schema` of the other columns.
    """

    dim: int
    fingerprint: str
    vector: str
    numbers: bool
    others: Any


def layout_of(schema: Any, meaning: Meaning, fingerprint: str) -> Layout:
    """The layout for parts with a schema.

    Raises:
        BulkError: The parts have no dense vectors that a database takes.
    """
    kind = schema.field(meaning.vector).type
    lists = pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_float32(kind.value_type) or pa.types.is_float16(kind.value_type)):
        raise BulkError(
            f"column {meaning.vector!r}: expected fixed-size lists of float32 or float16, got {kind}; run with "
            "--vector-type float32, and without --plain-lists"
        )
    chunked = meaning.long_texts == "chunks"
    numbers = not chunked and (meaning.id is None or pa.types.is_integer(schema.field(meaning.id).type))
    if ID in schema.names and meaning.id != ID:
        raise BulkError(
            f"column {ID!r}: expected to be the ids, as databases name them; run with --id {ID}, or leave it out"
        )
    others = [schema.field(name) for name in schema.names if name not in {meaning.vector, meaning.id}]
    return Layout(kind.list_size, fingerprint, meaning.vector, numbers, pa.schema(others))


def rows_of(table: Any, meaning: Meaning, layout: Layout, first_row: int) -> Rows:
    """The rows of a part, without those whose vector is null.

    Without a column of ids, they are the numbers of the rows in the whole source; rows that were skipped are not
    counted. The id of a chunk is that of its text with "#" and the number of the chunk.

    Args:
        table: The part, or the first rows of it.
        meaning: The options of the job.
        layout: The layout.
        first_row: The number of the first row in the whole source.

    Raises:
        BulkError: An id is negative, or there twice.
    """
    ids = _ids(table, meaning, layout, first_row)
    valid = np.flatnonzero(table[layout.vector].is_valid().to_numpy())
    kept = table.take(pa.array(valid)) if len(valid) < table.num_rows else table
    flat = kept[layout.vector].combine_chunks().flatten()
    vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(valid), layout.dim)
    others = kept.select(layout.others.names)
    found = [ids[i] for i in valid.tolist()]
    if len(set(found)) < len(found):
        twice = next(one for one, count in Counter(found).items() if count > 1)
        raise BulkError(
            f"column {meaning.id!r}: expected unique ids, got {twice!r} more than once; choose another column"
        )
    return Rows(found, vectors, others)


def _ids(table: Any, meaning: Meaning, layout: Layout, first_row: int) -> list[Any]:
    ids: list[Any]
    chunks = table[CHUNK].to_pylist() if meaning.long_texts == "chunks" else None
    if meaning.id is not None:
        ids = table[meaning.id].to_pylist()
    elif chunks is None:
        ids = list(range(first_row, first_row + table.num_rows))
    else:
        starts = np.cumsum([not chunk for chunk in chunks]) - 1  # 0, or null where a text has no vector
        ids = (first_row + starts).tolist()
    if chunks is not None:
        return [f"{one}#{chunk}" for one, chunk in zip(ids, chunks, strict=True)]
    if not layout.numbers:
        return [None if one is None else str(one) for one in ids]
    if negative := [one for one in ids if one is not None and one < 0]:
        raise BulkError(
            f"column {meaning.id!r}: expected ids that are not negative, got {negative[0]}; make them strings"
        )
    return ids

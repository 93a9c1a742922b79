"""Formats of parts: the rows that went in, the record, and nothing else beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrt.bulk import parts
from embedrt.bulk.writers import WRITERS
from embedrt.errors import BulkError, MissingDependencyError
from tests.bulk.test_parts import files, target

__all__ = ["target"]

FORMATS: list[Any] = ["parquet", "arrow", "jsonl", "npy"]
METADATA = {b"embedrt": b'{"fingerprint": "abc"}'}


def fixed(values: Any, kind: Any, missing: list[bool] | None = None) -> Any:
    """An array of vectors, of which some are null."""
    flat = pa.array(np.asarray(values).reshape(-1)).cast(kind)
    return pa.FixedSizeListArray.from_arrays(
        flat, type=pa.list_(kind, 3), mask=None if missing is None else pa.array(missing)
    )


def table_of(vectors: Any, *, keep: bool = True) -> Any:
    """A table with columns of many kinds."""
    columns = {
        "id": pa.array([1, None, 3], pa.int64()),
        "text": ["größe\n", 'a "quoted" text', None],
        "x": [0.1, float("nan") if not keep else 2.0, None],
        "list": pa.array([[1.5], [], None], pa.list_(pa.float32())),
        "flags": [[True], None, []],
        "raw": [b"\xff", b"", None],
        "when": pa.array([0, 1, None], pa.timestamp("ms")),
        "struct": [{"a": 1, "b": "x"}, {"a": None, "b": None}, None],
        "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
    }
    table = pa.table({**columns, "embedding": vectors})
    return table.replace_schema_metadata(METADATA)


def write(folder: Path, table: Any, part_format: Any) -> parts.Part:
    """Write a part in two steps."""
    with parts.open_part(folder, 3, table.schema, part_format, "embedding") as part:
        part.write(table.slice(0, 1))
        part.write(table.slice(1))
        return part.commit({"unit": 3})


def same(found: Any, table: Any) -> bool:
    """Compare two tables, of which one may have plain values instead of a dictionary."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return bool(found.cast(pa.schema(fields)).equals(table.cast(pa.schema(fields))))


VECTORS = [[0.1, -2e-7, 3.0], [1e20, 0.0, -1.5], [7.0, 8.0, 9.0]]


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (VECTORS, pa.float32()),
        (np.array(VECTORS) % 9, pa.float16()),
        (np.arange(9) - 4, pa.int8()),
        (range(9), pa.uint8()),
    ],
)
def test_every_format(part_format: Any, values: Any, kind: Any, target: Path) -> None:
    table = table_of(fixed(values, kind))
    part = write(target, table, part_format)
    path = target / f"part-00000003{WRITERS[part_format].SUFFIX}"
    assert (part.name, part.rows) == (path.name, 3)
    assert part.size == sum(one.stat().st_size for one in target.glob(f"{path.name}*"))
    assert part.sha256 == parts.sha256_of(path)
    assert parts.read_record(path) == {"unit": 3, "rows": 3}
    assert parts.format_of(path) == part_format
    found = pa.Table.from_batches(WRITERS[part_format].read_part(path))
    assert found.schema.metadata.items() >= METADATA.items()
    assert WRITERS[part_format].read_schema(path).names == table.column_names
    assert same(found, table)
    beside = {"parquet": [], "arrow": [], "jsonl": [".json"], "npy": [".json", ".parquet"]}[part_format]
    assert files(target) == sorted([path.name, *(f"{path.name}{ending}" for ending in beside)])
    if part_format == "npy":
        assert (
            np.load(path, mmap_mode="r").tolist()
            == np.array(values).reshape(3, 3).astype(kind.to_pandas_dtype()).tolist()
        )


@pytest.mark.parametrize("part_format", FORMATS)
def test_rows_without_a_vector(part_format: Any, target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32(), [False, True, False]))
    write(target, table, part_format)
    path = target / f"part-00000003{WRITERS[part_format].SUFFIX}"
    found = pa.Table.from_batches(WRITERS[part_format].read_part(path))
    assert same(found, table)
    if part_format == "npy":
        assert np.isnan(np.load(path)).all(axis=1).tolist() == [False, True, False]


def test_nulls_are_among_plain_lists_in_parquet(target: Path) -> None:
    """Other readers have them as they are in the file: pyarrow before 26 reads no null among fixed-size lists."""
    table = table_of(fixed(VECTORS, pa.float32(), [False, True, False]))
    write(target, table, "parquet")
    path = target / "part-00000003.parquet"
    stored = pq.read_table(path)
    assert stored.schema.field("embedding").type == pa.list_(pa.float32())
    assert [row is None for row in stored["embedding"].to_pylist()] == [False, True, False]
    assert WRITERS["parquet"].read_schema(path).equals(table.schema)
    full = table.schema.field("embedding").with_nullable(False)
    table = table.take([0, 2]).cast(pa.schema([*list(table.schema)[:-1], full], METADATA))
    write(target, table, "parquet")
    assert pq.read_table(path).schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert same(pq.read_table(path), table)


@pytest.mark.parametrize("part_format", FORMATS)
def test_a_part_without_rows(part_format: Any, target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32())).slice(0, 0)
    assert write(target, table, part_format).rows == 0
    path = target / f"part-00000003{WRITERS[part_format].SUFFIX}"
    assert parts.read_record(path) == {"unit": 3, "rows": 0}
    assert list(WRITERS[part_format].read_part(path)) == []


@pytest.mark.parametrize("part_format", FORMATS)
def test_vectors_alone(part_format: Any, target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32())).select(["embedding"])
    write(target, table, part_format)
    path = target / f"part-00000003{WRITERS[part_format].SUFFIX}"
    assert same(pa.Table.from_batches(WRITERS[part_format].read_part(path)), table)


@pytest.mark.parametrize("part_format", ["parquet", "arrow", "jsonl"])
def test_sparse_and_multi_vectors(part_format: Any, target: Path) -> None:
    sparse = pa.array(
        [{"indices": [1, 5], "values": [0.5, 2.0]}, None, {"indices": [], "values": []}],
        pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))]),
    )
    late = pa.array([VECTORS[:2], [], None], pa.list_(pa.list_(pa.float32(), 3)))
    table = pa.table({"embedding": sparse, "late": late})
    write(target, table, part_format)
    path = target / f"part-00000003{WRITERS[part_format].SUFFIX}"
    assert same(pa.Table.from_batches(WRITERS[part_format].read_part(path)), table)


@pytest.mark.parametrize("part_format", FORMATS)
def test_abandoned(part_format: Any, target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32()))
    with parts.open_part(target, 0, table.schema, part_format, "embedding") as part:
        part.write(table)
    assert files(target) == []


def test_lines_of_json(target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32(), [False, False, True]), keep=False)
    write(target, table, "jsonl")
    first, second, third = (target / "part-00000003.jsonl").read_text().splitlines()
    assert '"embedding": [0.1, -2e-7, 3]' in first
    assert json.loads(first) == {
        "id": 1,
        "text": "größe\n",
        "x": 0.1,
        "list": [1.5],
        "flags": [True],
        "raw": "/w==",
        "when": "1970-01-01 00:00:00.000",
        "struct": {"a": 1, "b": "x"},
        "kind": "a",
        "embedding": [0.1, -2e-7, 3],
    }
    assert json.loads(second)["x"] is None
    assert json.loads(third)["embedding"] is None


def test_what_a_matrix_does_not_hold(target: Path) -> None:
    table = pa.table({"embedding": [[1.0], [2.0, 3.0]]})
    with pytest.raises(BulkError, match="part_format: 'npy' holds fixed-size vectors of numbers, got list"):
        write(target, table, "npy")
    assert files(target) == []
    scores = pa.table({"embedding": pa.array([0.5, None, 2.0], pa.float32())})
    write(target, scores, "npy")
    assert pa.Table.from_batches(WRITERS["npy"].read_part(target / "part-00000003.npy")).equals(scores)


@pytest.mark.parametrize("part_format", ["jsonl", "npy", "arrow"])
def test_damaged_parts(part_format: Any, target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32()))
    write(target, table, part_format)
    for file in target.glob("part-*"):
        file.write_bytes(b"{")
    path = target / f"part-00000003{WRITERS[part_format].SUFFIX}"
    assert parts.read_record(path) is None
    with pytest.raises((OSError, ValueError)):
        list(WRITERS[part_format].read_part(path))


def test_lance(target: Path) -> None:
    table = table_of(fixed(VECTORS, pa.float32())).select(["id", "text", "embedding"])
    try:
        import lance  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="pylance is not installed; run `pip install pylance`"):
            write(target, table, "lance")
        return
    for _ in range(2):  # the second one replaces the first
        part = write(target, table, "lance")
    path = target / "part-00000003.lance"
    assert (part.rows, part.sha256) == (3, parts.sha256_of(path))
    assert parts.read_record(path) == {"unit": 3, "rows": 3}
    found = pa.Table.from_batches(WRITERS["lance"].read_part(path))
    assert found.to_pylist() == table.to_pylist()

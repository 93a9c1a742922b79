"""Parts: whole or absent, with their record."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrt import Embedder, load_embeddings
from embedrt.bulk import parts
from embedrt.bulk.writers import WRITERS
from tests.bulk.conftest import TEXTS, transform


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def files(folder: Path) -> list[str]:
    """The files in a folder, without the empty one for parts in progress."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != parts.STAGING)


def write(folder: Path, number: int, table: Any) -> parts.Part:
    """Write a part in Parquet."""
    with parts.open_part(folder, number, table.schema, "parquet", "embedding") as part:
        part.write(table.slice(0, 2))
        part.write(table.slice(2))
        return part.commit({"unit": number})


def test_a_part(tiny_bundle: Path, table: Any, target: Path) -> None:
    made = transform(tiny_bundle)(table).table
    part = write(target, 7, made)
    path = target / part.name
    assert files(target) == ["part-00000007.parquet"]
    assert (part.rows, part.size, part.sha256) == (6, path.stat().st_size, parts.sha256_of(path))
    assert parts.read_record(path) == {"unit": 7, "rows": 6}
    assert parts.number_of(part.name) == 7
    assert pq.read_table(path).equals(made)
    assert pq.read_table(path).schema.metadata.items() >= made.schema.metadata.items()
    assert pa.Table.from_batches(WRITERS["parquet"].read_part(path)).equals(made)


def test_a_part_replaces_another(tiny_bundle: Path, table: Any, target: Path) -> None:
    made = transform(tiny_bundle)(table).table
    write(target, 0, made)
    write(target, 0, made.slice(3))
    assert pq.read_table(target / "part-00000000.parquet").num_rows == 3


def test_nothing_remains_of_an_abandoned_part(tiny_bundle: Path, table: Any, target: Path) -> None:
    made = transform(tiny_bundle)(table).table
    with parts.open_part(target, 0, made.schema, "parquet", "embedding") as part:
        part.write(made)
        assert not (target / "part-00000000.parquet").exists()
    assert files(target) == []


def test_the_rest_of_a_part(target: Path) -> None:
    assert parts.number_of("manifest.jsonl") is None
    assert parts.number_of("part-1.parquet") is None
    assert parts.number_of("part-123456789.parquet") == 123456789
    damaged = target / "part-00000000.parquet"
    damaged.write_bytes(b"PAR1")
    assert parts.read_record(damaged) is None
    pq.write_table(pa.table({"x": [1]}), damaged)
    assert parts.read_record(damaged) is None


def test_embedrt_reads_a_part(tiny: Embedder, tiny_bundle: Path, table: Any, target: Path) -> None:
    made = transform(tiny_bundle, text=("text",), keep=("text",))(table.rename_columns(["id", "text", "score"])).table
    part = write(target, 0, made)
    loaded = load_embeddings(target / part.name, tiny)
    assert loaded.texts == TEXTS
    assert json.loads(made.schema.metadata[b"embedrt"])["model"] == tiny.name

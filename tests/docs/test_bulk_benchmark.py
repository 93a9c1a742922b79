"""The benchmark of bulk jobs: its rows, its record, its table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.bulk import KIND, Measured, as_record, bulk_tables, tree_memory, verdicts, write_source
from benchmarks.bulk_engines import vectors_of


def record(**engines: Measured) -> dict[str, Any]:
    """The record of some engines, by names with "_" for spaces."""
    found = as_record({name.replace("_", " "): one for name, one in engines.items()})
    return {
        "kind": KIND,
        "machine": {"title": "A machine", "python": "3.12"},
        "versions": {"embedrt": "1"},
        "date": "2026-01-01",
        "command": "python -m benchmarks.bulk",
        "file": "a.json",
        "rows": 1000,
        "corpus": "entries",
        "rounds": 2,
        "engines": found,
        "targets": [],
    }


def test_no_text_is_there_twice(tmp_path: Path) -> None:
    write_source(tmp_path / "rows.parquet", 30_000)
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows["id"].to_pylist() == list(range(30_000))
    assert len(set(rows["body"].to_pylist())) == 30_000


def test_verdicts_and_table() -> None:
    alone = Measured(1000, seconds=[10.0, 20.0], peak_rss_mb=[300.0, 310.0], second_half_rss_mb=[300.0, 300.0])
    bulk = Measured(
        1000, seconds=[10.0, 16.0], peak_rss_mb=[400.0, 420.0], second_half_rss_mb=[400.0, 420.0], max_error=1e-7
    )
    failed = Measured(500, error="it | broke")
    made = record()
    made["engines"] = as_record({"encode_iter": alone, "embedrt bulk": bulk, "Daft, embedrt": failed})
    assert made["engines"]["embedrt bulk"]["ratio"]["median"] == 1.125
    assert [row.met for row in verdicts(made["engines"])] == [True, True, None, None]
    table = "\n".join(bulk_tables([json.loads(json.dumps(made))]))
    assert "| embedrt bulk | float32 | 1,000 | 81.2 | 1.12x | encode_iter | 420 | 420 | 1.0e-07 |" in table
    assert "| Daft, embedrt | float32 | 500 | failed: it \\| broke |" in table


def test_vectors_are_found_by_id(tmp_path: Path) -> None:
    import pyarrow as pa

    flat = pa.array(np.arange(6, dtype=np.float32))
    for name, vectors in {"fixed": pa.FixedSizeListArray.from_arrays(flat, 3), "lists": None}.items():
        column = pa.array([[0.0, 1, 2], [3, 4, 5]], pa.list_(pa.float32())) if vectors is None else vectors
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(pa.table({"id": [7, 8], "embedding": column}), folder / "a.parquet")
        found = vectors_of(folder)
        np.testing.assert_array_equal(found[8], [3, 4, 5])


def test_memory_of_a_process_is_seen() -> None:
    import os
    import sys

    if sys.platform == "linux":
        assert tree_memory(os.getpid()) > 10e6

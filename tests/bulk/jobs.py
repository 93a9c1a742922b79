"""Bulk jobs for tests: sources, and the rows that a job must have made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.bulk import check, run

ROWS, PART_ROWS = 90, 10
WORDS = ("river", "money", "bank", "boat", "dog", "cat")


def text_of(row: int, version: str = "") -> str:
    """The text of a row; every ninth row has the text of the one before."""
    row -= row % 9 == 8
    return f"{version}{WORDS[row % 6]} {row} {WORDS[row % 5] * (row % 4)}"


def write_source(folder: Path, rows: int = ROWS, version: str = "") -> list[str]:
    """Two Parquet files of texts with ids; returns the texts."""
    folder.mkdir(exist_ok=True)
    texts = [text_of(row, version) for row in range(rows)]
    middle = rows // 2
    for name, start, stop in (("a", 0, middle), ("b", middle, rows)):
        table = pa.table({"id": range(start, stop), "text": texts[start:stop]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=7)
    return texts


def run_again(source: Path, target: Path, bundle: Path, **options: Any) -> Any:
    """A run with the options of all tests."""
    given: Mapping[str, Any] = {"text": "text", "part_rows": PART_ROWS, "progress": False, **options}
    return run(source, target, model=bundle, **given)


def require_whole(target: Path, texts: list[str], expected: NDArray[np.float32]) -> None:
    """Check that every row is there once, in order, with the vector of `encode`; and that nothing else is."""
    names = sorted(path.name for path in target.glob("part-*"))
    table = pa.concat_tables([pq.read_table(target / name) for name in names])
    assert table.column("id").to_pylist() == list(range(len(texts)))
    assert table.column("text").to_pylist() == texts
    vectors = np.stack(table.column("embedding").to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)
    found = check(target)
    assert found.is_whole, found.summary
    assert {path.name for path in target.iterdir()} <= {*names, "_job", "_job.lock", ".unfinished"}
    assert list(target.glob(".unfinished/.*/*")) == []
    assert [path.name for path in (target / "_job").iterdir() if path.name.startswith(".")] == []


def vectors_of(bundle: Path, texts: list[str]) -> NDArray[np.float32]:
    """The vectors of `encode`."""
    with Embedder(bundle) as model:
        vectors: NDArray[np.float32] = model.encode(texts)
    return vectors

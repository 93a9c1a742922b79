"""Sources of many small files: they share parts, and every row keeps its place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrt.bulk import check, run, task
from embedrt.errors import BulkError
from tests.bulk import jobs
from tests.bulk.test_formats import WRITERS

FILES, ROWS = 20, 3


def write(folder: Path, name: str) -> list[str]:
    """Files of a format with a few rows, of which some have none; returns the texts."""
    texts = [jobs.text_of(row) for row in range(FILES * ROWS)]
    folder.mkdir()
    for i in range(FILES):
        rows = range(i * ROWS, (i + 1) * ROWS)
        table = pa.table({"id": [str(row) for row in rows], "text": [texts[row] for row in rows]})
        WRITERS[name](table.slice(0, 0 if i in {0, 7, FILES - 1} else ROWS), folder / f"{i:02d}{name[1:]}", 2)
    return [text for row, text in enumerate(texts) if row // ROWS not in {0, 7, FILES - 1}]


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.arrow", "x.jsonl.gz", "x.csv", "x.txt"])
def test_files_share_parts(tiny_bundle: Path, name: str, tmp_path: Path) -> None:
    texts = write(tmp_path / "in", name)
    report = jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle)
    assert (report.units, report.done.rows) == (6, len(texts))
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert [table.num_rows for table in tables] == [9, 9, 9, 9, 9, 6]
    whole = pa.concat_tables(tables)
    assert whole["text"].to_pylist() == texts
    vectors = np.stack(whole["embedding"].to_numpy(zero_copy_only=False))
    assert np.abs(vectors - jobs.vectors_of(tiny_bundle, texts)).max() < 1e-6
    assert check(tmp_path / "out").is_whole
    assert jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle).made.rows == 0


def test_files_with_other_columns_have_parts_of_their_own(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    columns: list[dict[str, list[Any]]] = [{}, {}, {"year": [1]}, {"year": [2]}, {"year": ["3"]}, {}]
    for i, more in enumerate(columns):
        pq.write_table(pa.table({"text": ["the dog"], **more}), tmp_path / "in" / f"{i}.parquet")
    (tmp_path / "in" / "6.jsonl").write_text('{"text": "the cat"}')
    report = jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle)
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("part-*"))] == [2, 2, 1, 1, 1]
    assert report.done.rows == 7


def test_bad_rows_are_named_by_their_file(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(6):
        rows = ["1,the dog", "2,the cat", "3" if i in {2, 5} else "3,a boat"]
        (tmp_path / "in" / f"{i}.csv").write_text("\n".join(["id,text", *rows]))
    with pytest.raises(BulkError, match=r"^2\.csv, row 2: expected 2 values, got 1; correct the row"):
        jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle)
    options: dict[str, Any] = {"on_error": "skip", "restart": True, "max_seq_length": 5, "long_texts": "error"}
    (tmp_path / "in" / "3.csv").write_text(f"id,text\n4,the dog\n5,{'the dog ' * 9}\n")
    report = jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle, **options)
    assert (report.done.rows, report.done.failed) == (17, 3)
    errors = [json.loads(line) for line in (tmp_path / "out" / "_job" / "errors.jsonl").read_text().splitlines()]
    assert [(one["file"], one["row"], one["column"]) for one in errors] == [
        ("2.csv", 2, None),
        ("3.csv", 1, "text"),
        ("5.csv", 2, None),
    ]


def test_a_file_that_is_replaced_meanwhile(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in", "x.jsonl")
    commit = task.Making.commit

    def replace(making: task.Making) -> Any:
        (tmp_path / "in" / "05.jsonl").write_text('{"id": "15", "text": "another"}\n' * ROWS)
        return commit(making)

    monkeypatch.setattr(task.Making, "commit", replace)
    with pytest.raises(BulkError, match=r"^05\.jsonl: changed while the job ran, from "):
        jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle)
    assert [path.name for path in (tmp_path / "out").glob("part-*")] == ["part-00000000.parquet"]


@pytest.mark.parametrize("keep", [None, ["id"]])
def test_units_of_files_on_other_workers(tiny_bundle: Path, keep: Any, tmp_path: Path) -> None:
    """Each with a reader of its own, and in any order."""
    texts = write(tmp_path / "in", "x.csv")
    for shard in ((2, 2), (1, 2)):
        run(tmp_path / "in", tmp_path / "out", model=tiny_bundle, text="text", part_rows=10, shard=shard, keep=keep)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    ids = pa.concat_tables(tables)["id"].to_pylist()
    assert [jobs.text_of(int(row)) for row in ids] == texts

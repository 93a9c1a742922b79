"""Columns of a source: those that the result needs are read, and no others."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrt.bulk import run, task
from embedrt.bulk.plan import Unit
from embedrt.bulk.reading import Reader
from embedrt.bulk.sources import find
from embedrt.errors import BulkError
from tests.bulk.conftest import transform
from tests.bulk.test_formats import WRITERS


def read(bundle: Path, path: Path, **options: Any) -> list[str]:
    """The columns that a unit of a file is read with."""
    (file,) = find([str(path)], None, path.parent)
    made = transform(bundle, **options)
    offset = path.read_bytes().index(b"\n") + 1 if path.suffix == ".csv" else 0
    unit = task.Task(str(path.parent / "out"), "", (file,), Unit(0, 0, 0, 3, offset, 0), made.meaning, made.fingerprint)
    (table,) = task.windows(made, unit, Reader())
    return [name for name in table.column_names if not name.startswith("__")]


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.jsonl", "x.csv"])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"text": ("body",)}, ["title", "id", "body", "more"]),
        ({"text": ("body",), "keep": ()}, ["body"]),
        ({"text": ("body",), "keep": ("more",)}, ["body", "more"]),
        ({"text": ("body",), "keep": (), "id": "id"}, ["id", "body"]),
        ({"template": "{title} {body}", "keep": ("body",)}, ["title", "body"]),
    ],
)
def test_columns_that_nobody_wants_are_not_read(
    tiny_bundle: Path, name: str, options: dict[str, Any], names: list[str], tmp_path: Path
) -> None:
    table = pa.table({"title": ["a", "b", "c"], "id": ["1", "2", "3"], "body": ["d", "e", "f"], "more": ["g"] * 3})
    WRITERS[name](table, tmp_path / name, 2)
    assert read(tiny_bundle, tmp_path / name, **options) == names


def test_the_only_text_column(tiny_bundle: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3], "body": ["d", "e", "f"]}), tmp_path / "x.parquet")
    assert read(tiny_bundle, tmp_path / "x.parquet", keep=()) == ["body"]
    pq.write_table(pa.table({"id": ["1", "2", "3"], "body": ["d", "e", "f"]}), tmp_path / "x.parquet")
    with pytest.raises(BulkError, match="text: expected one text column, got 'id', 'body' of the columns"):
        read(tiny_bundle, tmp_path / "x.parquet", keep=())


def test_damage_elsewhere_does_not_matter(tiny_bundle: Path, tmp_path: Path) -> None:
    """A column that is not read cannot fail."""
    rows = [{"body": "the dog", "year": 1999}, {"body": "the cat", "year": "unknown"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options: dict[str, Any] = {"model": tiny_bundle, "text": "body", "progress": False}
    with pytest.raises(BulkError, match=r"x\.jsonl, row 1, column 'year': expected int, got str"):
        run(tmp_path / "x.jsonl", tmp_path / "all", **options)
    assert run(tmp_path / "x.jsonl", tmp_path / "none", keep=[], **options).done.written == 2
    with pytest.raises(BulkError, match=r"^x\.jsonl: column 'years': missing; the columns are 'body', 'year'"):
        run(tmp_path / "x.jsonl", tmp_path / "missing", keep=["years"], **options)
    with pytest.raises(BulkError, match=r"^x\.jsonl: column 'title': missing; the columns are 'body', 'year'"):
        run(tmp_path / "x.jsonl", tmp_path / "other", **{**options, "text": "title"})


@pytest.mark.parametrize("keep", [None, ("id",)])
def test_a_text_column_that_is_there_twice(tiny_bundle: Path, keep: Any) -> None:
    table = pa.table([pa.array(["1"]), pa.array(["a"]), pa.array(["b"])], names=["id", "body", "body"])
    for text in ((), ("body",)):
        with pytest.raises(BulkError, match="body"):
            transform(tiny_bundle, text=text, keep=keep)(table)

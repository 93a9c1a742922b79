"""Formats of source files: every row once, in order, whatever the units; types; rows that cannot be read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv
from pyarrow import feather

from embedrt.bulk.formats import FORMATS
from embedrt.bulk.plan import SourceFile, Unit
from embedrt.bulk.reading import Reader, tables
from embedrt.bulk.rows import MESSAGES
from embedrt.bulk.sources import find, open_filesystem
from embedrt.errors import BulkError


def parquet(table: Any, path: Path, group: int) -> None:
    pq.write_table(table, path, row_group_size=group)


def arrow_file(table: Any, path: Path, group: int) -> None:
    feather.write_feather(table, path, chunksize=group, compression="lz4")


def arrow_stream(table: Any, path: Path, group: int) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, group)


def jsonl(table: Any, path: Path, group: int) -> None:
    lines = [json.dumps(row, ensure_ascii=group % 2 == 0) for row in table.to_pylist()]
    text = ("\n\n" if group == 1 else "\r\n").join(lines)
    path.write_bytes(compressed(path, text.encode()))


def compressed(path: Path, content: bytes) -> bytes:
    """The content as the ending of a file wants it, in two parts."""
    if path.suffix == ".gz":
        half = len(content) // 2
        return gzip.compress(content[:half]) + gzip.compress(content[half:])
    return pa.Codec("zstd").compress(content, asbytes=True) if path.suffix == ".zst" else content


def csv(table: Any, path: Path, group: int) -> None:
    options = arrow_csv.WriteOptions(delimiter="\t" if path.name.startswith("x.tsv") else ",")
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(table, sink, options)
    content = sink.getvalue().to_pybytes()
    path.write_bytes(compressed(path, b"\xef\xbb\xbf" + content if group == 1 else content))


def lines(table: Any, path: Path, group: int) -> None:
    path.write_bytes(compressed(path, "\n".join(table["text"].to_pylist()).encode() + b"\n" * (group % 2)))


WRITERS: dict[str, Callable[[Any, Path, int], None]] = {
    "x.parquet": parquet,
    "x.feather": arrow_file,
    "x.arrow": arrow_stream,
    "x.jsonl": jsonl,
    "x.jsonl.gz": jsonl,
    "x.ndjson.zst": jsonl,
    "x.csv": csv,
    "x.csv.gz": csv,
    "x.tsv": csv,
    "x.txt": lines,
    "x.txt.zst": lines,
}


def planned(path: Path, rows: int) -> tuple[SourceFile, list[Unit], Any]:
    """A file with its units and its schema."""
    (file,) = find([str(path)], None, path.parent)
    filesystem, place = open_filesystem(file.path)
    units: list[Unit] = []
    start = 0
    for count, offset in FORMATS[file.format].pieces(place, filesystem, rows):
        assert 1 <= count <= rows
        units.append(Unit(len(units), 0, start, start + count, offset, start))
        start += count
    schema = FORMATS[file.format].schema(place, filesystem) if units else None
    return file, units, schema


def read(path: Path, rows: int = 1000, columns: list[str] | None = None) -> Any:
    """The rows of a file."""
    file, units, _ = planned(path, rows)
    reader = Reader()
    return pa.Table.from_batches([batch for unit in units for batch in reader.read(file, unit, columns)])


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=8)
# A blank line of CSV is no row, and neither has an empty string a line of its own in the files of pyarrow.
some = st.lists(st.tuples(st.integers(-9, 9), texts), max_size=40)


@pytest.mark.parametrize("name", WRITERS)
@given(rows=some, group=st.integers(1, 9), part=st.integers(1, 12), order=st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_every_row_once_and_in_order(
    name: str, rows: list[tuple[int, str]], group: int, part: int, order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    table = pa.table({"id": [number for number, _ in rows], "text": [text for _, text in rows]})
    table = table.cast(pa.schema({"id": pa.int64(), "text": pa.string()}))
    if "txt" in name:
        table = table.select(["text"]) if rows and (rows[-1][1] or group % 2) else table.slice(0, 0).select(["text"])
    WRITERS[name](table, path, group)
    if "csv" in name or "tsv" in name:
        table = table.cast(pa.schema({"id": pa.string(), "text": pa.string()}))
    if "txt" in name and not table.num_rows and group % 2:
        table = pa.table({"text": [""]})
    file, units, schema = planned(path, part)
    if not table.num_rows:
        assert units == []
        return
    assert schema.equals(table.schema)
    reader = Reader()
    once = [batch for unit in units for batch in reader.read(file, unit)]
    found = pa.Table.from_batches(once)
    if MESSAGES in found.column_names:
        assert found[MESSAGES].null_count == found.num_rows
    assert found.select(table.column_names).equals(table)
    for unit in order.sample(units, len(units)):  # whatever was read before
        batches = pa.Table.from_batches(list(reader.read(file, unit, ["text"])))
        assert batches["text"].to_pylist() == table["text"].to_pylist()[unit.start : unit.stop]


def test_pieces_of_row_groups(tmp_path: Path) -> None:
    table = pa.table({"text": [str(i) for i in range(100)]})
    parquet(table, tmp_path / "a.parquet", 7)
    assert [unit.rows for unit in planned(tmp_path / "a.parquet", 20)[1]] == [14, 14, 14, 14, 14, 14, 16]
    parquet(table, tmp_path / "b.parquet", 50)
    assert [unit.rows for unit in planned(tmp_path / "b.parquet", 20)[1]] == [16, 17, 17, 16, 17, 17]


def test_tables_are_bounded(tmp_path: Path) -> None:
    batch = pa.record_batch({"text": ["x" * 100] * 10})
    found = list(tables([batch] * 3, 8))
    assert [table.num_rows for table in found] == [8, 8, 8, 6]
    assert [table.num_rows for table in tables([batch] * 3, 100, size=1500)] == [20, 10]
    assert list(tables([batch.slice(0, 0)], 8)) == []


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv"])
def test_a_long_text(name: str, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "é" * 2_500_000, "b"]})
    WRITERS[name](table, tmp_path / name, 2)
    assert [len(text) for text in read(tmp_path / name, 2)["text"].to_pylist()] == [1, 2_500_000, 1]


def test_quoted_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,"a\nb"\r\n1,"x\r\ny, ""z"""\r\n\r\n2,5" disk\r\n')
    for rows in (1, 5):
        found = read(tmp_path / "a.csv", rows)
        assert found.drop_columns(MESSAGES).to_pydict() == {"id": ["1", "2"], "a\nb": ['x\r\ny, "z"', '5" disk']}


def test_types_of_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "b": "2020-01-01", "c": None, "d": [1], "e": {"f": None}},
        {"a": 2.5, "g": True},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path / "a.jsonl").drop_columns(MESSAGES)
    assert [str(field.type) for field in found.schema][:3] == ["double", "string", "string"]
    assert found.to_pylist() == [{**rows[0], "a": 1.0, "g": None}, {**dict.fromkeys("abcde"), "a": 2.5, "g": True}]


BAD: dict[str, tuple[bytes, list[tuple[str | None, str] | None]]] = {
    "x.jsonl": (
        (
            b'{"id": 1, "text": "good"}\nnot JSON\n{"id": 2, "text": 5}\n{"id": "3", "text": "x"}\n[1]\n'
            b'{"id": 4, "text": "\\ud800"}\n{"id": 5, "text": "\xff"}\n{"id": 6}\n{"id": 7, "text": "good"}\n'
        ),
        [
            None,
            (None, "expected a JSON object, got invalid JSON: Expecting value: line 1 column 1 (char 0)"),
            ("text", "expected str, got int"),
            ("id", "expected int, got str"),
            (None, "expected a JSON object, got list"),
            ("text", "expected text, got a lone surrogate '\\ud800'"),
            (None, "expected UTF-8, got byte 0xff at position 20"),
            None,
            None,
        ],
    ),
    "x.csv": (
        b'id,text\n1,good\n2\n3,a,b\n4,dos\xe9\n5,a\rb\n6,"good"\n',
        [
            None,
            (None, "expected 2 values, got 1"),
            (None, "expected 2 values, got 3"),
            ("text", "expected UTF-8, got byte 0xe9 at position 4"),
            (None, "expected 2 values, got 0"),
            None,
        ],
    ),
    "x.txt": (b"good\ndos\xe9\n\ngood", [None, ("text", "expected UTF-8, got byte 0xe9 at position 4"), None, None]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_rows_that_cannot_be_read(name: str, rows: int, tmp_path: Path) -> None:
    content, expected = BAD[name]
    (tmp_path / name).write_bytes(content)
    found = read(tmp_path / name, rows)
    messages = [None if entry is None else tuple(entry.split("\0")) for entry in found[MESSAGES].to_pylist()]
    assert messages == [None if entry is None else (entry[0] or "", entry[1]) for entry in expected]
    good = [text for text, message in zip(found["text"].to_pylist(), messages, strict=True) if text and not message]
    assert good == ["good", "good"]


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.jsonl.gz", "x.ndjson.zst"])
def test_damaged_files(name: str, tmp_path: Path) -> None:
    table = pa.table({"text": [str(i) * 50 for i in range(2000)]})
    WRITERS[name](table, tmp_path / name, 500)
    file, units, _ = planned(tmp_path / name, 500)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BulkError, match=f"(^|/){name}: (cannot be read|expected 2000 rows or more)"):
        list(Reader().read(file, units[-1]))
    (tmp_path / name).unlink()
    with pytest.raises(BulkError, match=f"(^|/){name}: missing; it was there when the job was planned"):
        list(Reader().read(file, units[0]))


def test_fewer_rows_than_planned(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet(pa.table({"text": ["a"] * 10}), path, 5)
    file, units, _ = planned(path, 5)
    parquet(pa.table({"text": ["a"] * 7}), path, 5)
    with pytest.raises(BulkError, match=r"x\.parquet: expected 10 rows or more, got 7; it was replaced"):
        list(Reader().read(file, units[1]))

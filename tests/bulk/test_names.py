"""Names of files and columns that somebody else chose, and URLs with secrets."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrt.bulk import check, merge, run
from embedrt.bulk.names import printable, without_secrets
from embedrt.bulk.rows import MESSAGES
from embedrt.bulk.sources import find
from embedrt.errors import BulkError, MissingDependencyError
from tests.bulk.test_formats import WRITERS


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key-id:secret@bucket/a/*.parquet?region=x", "s3://key-id@bucket/a/*.parquet?region=x"),
        ("s3://bucket/a?secret_key=x&region=y&session_token=z", "s3://bucket/a?region=y"),
        ("qdrant://host:6333?table=t&api_key=x", "qdrant://host:6333?table=t"),
        ("pgvector://user:a%40b@host/db?password=x", "pgvector://user@host/db"),
        ("memory://data/a b[c].txt", "memory://data/a b[c].txt"),
        ("in/a:b@c?d", "in/a:b@c?d"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_no_secret_of_a_url_is_in_files_or_messages(tiny_bundle: Path, tmp_path: Path) -> None:
    import fsspec  # huggingface-hub needs it, so it is there

    (tmp_path / "a.txt").write_text("the dog\nthe cat\n")
    url = f"{tmp_path.as_uri()}/a.txt?secret_key=hidden"
    run(url, tmp_path / "out", model=tiny_bundle, progress=False)
    run(url, tmp_path / "out", model=tiny_bundle, progress=False)
    assert check(tmp_path / "out").is_whole
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert not [path for path in files if b"hidden" in path.read_bytes()]
    fsspec.filesystem("memory").pipe("/b.txt", b"")
    for source in (
        "none://key:hidden@host/x.txt",
        "memory://none.txt?token=hidden",
        f"{tmp_path.as_uri()}/none?key=hidden",
    ):
        with pytest.raises((BulkError, MissingDependencyError)) as error:
            find([source], None, tmp_path)
        assert "hidden" not in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_a_file_whose_name_controls_the_terminal(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = "\x1b[31ma\nb.jsonl"
    (folder / name).write_text('{"text": "the dog"}\n{"text": 5}\n')
    with pytest.raises(BulkError) as error:
        run(folder, tmp_path / "out", model=tiny_bundle, progress=False)
    assert str(error.value).startswith(r"\x1b[31ma\nb.jsonl, row 1, column 'text': expected str, got int")
    run(folder, tmp_path / "out", model=tiny_bundle, progress=False, on_error="skip", restart=True)
    (line,) = (tmp_path / "out" / "_job" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == printable(name)
    (folder / name).unlink()
    (folder / "\x1b.parquet").write_bytes(b"")
    with pytest.raises(BulkError) as error:
        run(folder, tmp_path / "out", model=tiny_bundle, progress=False, restart=True)
    assert str(error.value).isprintable()


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names are Unicode there")
def test_a_file_whose_name_is_not_utf8(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("the dog")
    with pytest.raises(BulkError, match=r"^\\udcff\.txt: expected a path in UTF-8, got other bytes; rename the file"):
        run(folder, tmp_path / "out", model=tiny_bundle, progress=False)


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.arrow", "x.jsonl", "x.csv"])
def test_a_column_with_the_name_of_messages(tiny_bundle: Path, name: str, tmp_path: Path) -> None:
    """It would mark rows as unreadable."""
    WRITERS[name](pa.table({"text": ["a"], MESSAGES: ["b"]}), tmp_path / name, 1)
    with pytest.raises(BulkError, match=f"{name}: column '{MESSAGES}': expected another name"):
        run(tmp_path / name, tmp_path / "out", model=tiny_bundle, text="text", progress=False)


@pytest.mark.parametrize(
    ("name", "content"), [("x.jsonl", b'{"text": "a", "\\ud800": "b"}\n'), ("x.csv", b"text,\xff\na,b\n")]
)
def test_a_column_whose_name_is_no_text(tiny_bundle: Path, name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BulkError, match=rf"{name}: column '\\ud.*': expected a name in UTF-8, got other bytes; rename"):
        run(tmp_path / name, tmp_path / "out", model=tiny_bundle, text="text", progress=False)


@pytest.mark.parametrize("part_format", ["parquet", "arrow", "jsonl", "npy"])
def test_columns_with_strange_names(tiny_bundle: Path, part_format: Any, tmp_path: Path) -> None:
    names = ["", "a.b", "../x", 'q"uote\\', "\x1b[0m\n", "{body}", "list.element", "_job", "embedding.x"]
    table = pa.table([pa.array([f"{i}", "b"]) for i in range(len(names))], names=names)
    table = table.append_column("body", [["the dog", "the cat"]]).append_column("a", [[{"b": 1}, {"b": None}]])
    pq.write_table(table, tmp_path / "x.parquet")
    options: dict[str, Any] = {"model": tiny_bundle, "text": "body", "part_format": part_format, "progress": False}
    run(tmp_path / "x.parquet", tmp_path / "out", **options)
    path = merge(tmp_path / "out", tmp_path / "merged.arrow")
    assert pa.ipc.open_file(path).read_all().drop_columns("embedding").equals(table)
    run(tmp_path / "x.parquet", tmp_path / "kept", keep=["a", "a.b"], **options)
    path = merge(tmp_path / "kept", tmp_path / "kept.arrow")
    assert pa.ipc.open_file(path).read_all().drop_columns("embedding").equals(table.select(["a", "a.b"]))


def test_no_text_is_in_errors_or_logs(tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """But in the results."""
    (tmp_path / "x.jsonl").write_text('{"text": "private one"}\nprivate two\n{"text": ["private three"]}\n')
    options: dict[str, Any] = {"model": tiny_bundle, "progress": False, "json_log": True}
    with pytest.raises(BulkError) as error:
        run(tmp_path / "x.jsonl", tmp_path / "out", **options)
    run(tmp_path / "x.jsonl", tmp_path / "null", on_error="null", **options)
    written = [path.read_text() for path in (tmp_path / "null" / "_job").rglob("*.json*") if path.is_file()]
    captured = capfd.readouterr()
    assert "private" not in "".join([str(error.value), captured.out, captured.err, *written])
    assert '"unit": 0' in captured.err

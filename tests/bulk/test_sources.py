"""Sources: folders, globs, URLs, standard input, saved data sets."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrt.bulk.formats import FORMATS
from embedrt.bulk.plan import SourceFile, Unit
from embedrt.bulk.reading import Reader
from embedrt.bulk.sources import find, open_filesystem, state
from embedrt.errors import BulkError


def names(*source: str, source_format: str | None = None) -> list[str]:
    """The files of a source, with their formats."""
    return [f"{file.name} {file.format}" for file in find(source, source_format, Path())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of several formats."""
    root = tmp_path / "in"
    (root / "b").mkdir(parents=True)
    (root / "_metadata").mkdir()
    (root / ".hidden").mkdir()
    table = pa.table({"text": ["a", "b"]})
    for name in ("z.parquet", "b/y.parquet", "_metadata/x.parquet", ".hidden/x.parquet"):
        pq.write_table(table, root / name)
    (root / "a.jsonl").write_text('{"text": "a"}\n')
    (root / "b" / "c.TXT").write_text("a\n")
    (root / "b" / "d.csv.zst").write_bytes(b"")
    (root / "README.md").write_text("a\n")
    (root / "e.parquet.gz").write_bytes(b"")
    return root


def test_a_folder(folder: Path) -> None:
    files = ["a.jsonl jsonl", "b/c.TXT lines", "b/d.csv.zst csv", "b/y.parquet parquet", "z.parquet parquet"]
    assert names(str(folder)) == files
    assert names(str(folder), str(folder / "z.parquet")) == [*files, "z.parquet parquet"]


def test_globs(folder: Path) -> None:
    assert names(f"{folder}/*.parquet") == ["z.parquet parquet"]
    assert names(f"{folder}/[!_]/*.parquet") == ["y.parquet parquet"]
    assert names(f"{folder}/**/*.parquet")[-2:] == ["b/y.parquet parquet", "z.parquet parquet"]
    assert names(f"{folder}/README.md", source_format="lines") == ["README.md lines"]


def test_a_file_is_described(folder: Path) -> None:
    path = folder / "z.parquet"
    (file,) = find([str(path)], None, folder)
    status = path.stat()
    assert file == SourceFile(str(path), "z.parquet", "parquet", status.st_size, str(status.st_mtime_ns), rows=-1)
    assert state(file.path) == (file.size, file.version)


def test_urls(folder: Path) -> None:
    url = folder.as_uri()
    files = ["a.jsonl jsonl", "b/c.TXT lines", "b/d.csv.zst csv", "b/y.parquet parquet", "z.parquet parquet"]
    assert names(url) == files
    assert names(f"{url}/*.parquet") == ["z.parquet parquet"]
    assert names(f"{url}/**/y.parquet") == ["b/y.parquet parquet"]
    assert names(f"{url}/b/[yz].parquet") == ["y.parquet parquet"]
    (file,) = find([f"{url}/z.parquet"], None, folder)
    assert file.path == f"{url}/z.parquet"
    assert state(file.path) == (file.size, file.version) == state(str(folder / "z.parquet"))
    assert [batch.num_rows for batch in Reader().read(file, Unit(0, 0, 1, 2, 0, 1))] == [1]
    with pytest.raises(FileNotFoundError):
        state(f"{url}/none.parquet")


def test_urls_with_spaces_and_options(folder: Path) -> None:
    (folder / "b").rename(folder / "a b%20c")
    (file,) = find([f"{folder.as_uri()}/*/y.parquet?use_mmap=false"], None, folder)
    assert file.path == f"{folder.as_uri()}/a%20b%2520c/y.parquet?use_mmap=false"
    assert state(file.path) == (file.size, file.version)
    (file,) = find([file.path], None, folder)
    assert (file.name, file.format) == ("y.parquet", "parquet")


def test_urls_of_fsspec(folder: Path) -> None:
    import fsspec  # huggingface-hub needs it, so it is there

    memory = fsspec.filesystem("memory")
    memory.pipe("/data/x.txt", b"a\nb\n")
    (file,) = find(["memory://data/x.txt"], None, folder)
    assert (file.format, file.size) == ("lines", 4)
    filesystem, place = open_filesystem(file.path)
    assert list(FORMATS["lines"].pieces(place, filesystem, 10)) == [(2, 0)]
    assert names("memory://data") == ["x.txt lines"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.parquet", "none.parquet: missing; expected a file, folder, glob, URL, or - for standard input"),
        ("none*.parquet", "none*.parquet: no file matches"),
        ("in/README.md", "README.md: expected an ending of .parquet"),
        ("in/e.parquet.gz", "e.parquet.gz: expected an ending of .parquet"),
        ("in/only", "in/only: expected files that end with .parquet"),
        ("file:///none", "file:///none: no file is there, or none matches"),
        ("nothing://none", "nothing://none: expected a path or URL"),
    ],
)
def test_wrong_sources(folder: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "only").mkdir()
    monkeypatch.chdir(folder.parent)
    with pytest.raises(BulkError) as error:
        names(source)
    assert str(error.value).startswith(message)


def test_wrong_format(folder: Path) -> None:
    with pytest.raises(BulkError, match=r"format: expected one of 'parquet', .*, got 'xml'"):
        names(str(folder), source_format="xml")
    with pytest.raises(BulkError, match="source: expected a file, folder, glob or URL, got none"):
        names()


class Input:
    """Standard input with some bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        """A file is no terminal."""
        return False


@pytest.mark.parametrize(
    ("content", "chosen"), [(b"one\ntwo", "lines"), (b'\xef\xbb\xbf{"text": "one"}\n', "jsonl"), (b"", "lines")]
)
def test_standard_input(content: bytes, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Input(content))
    first = find(["-"], None, tmp_path / "job")
    assert (first[0].name, first[0].format, first[0].size) == ("standard input", chosen, len(content))
    assert Path(first[0].path).read_bytes() == content
    for again in (None, Input(b""), Input(content)):  # of a job that goes on
        monkeypatch.setattr("sys.stdin", again)
        assert find(["-"], None, tmp_path / "job") == first
    for other in (content[:-1] + b"x", content + b"x"):
        monkeypatch.setattr("sys.stdin", Input(other))
        with pytest.raises(BulkError, match="standard input: expected that of the job, got other bytes after"):
            find(["-"], None, tmp_path / "job")


def test_no_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BulkError, match="source: expected texts on standard input, one per line, but there is none"):
        find(["-"], None, tmp_path)


def saved(folder: Path, names: list[str], **more: Any) -> None:
    """A data set as `datasets` saves it."""
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        table = pa.table({"text": [f"{folder.name} {i}"]})
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **more}))
    (folder / "dataset_info.json").write_text("{}")


def test_saved_data_sets(tmp_path: Path) -> None:
    shards = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    saved(tmp_path / "one", shards)
    (tmp_path / "one" / "cache-1234.arrow").write_bytes(b"")
    assert names(str(tmp_path / "one")) == [f"{name} arrow" for name in shards]
    saved(tmp_path / "all" / "train", shards)
    saved(tmp_path / "all" / "test", shards[:1])
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = find([str(tmp_path / "all")], None, tmp_path)
    assert [file.name for file in found] == [f"train/{shards[0]}", f"train/{shards[1]}", f"test/{shards[0]}"]
    rows = [pa.Table.from_batches(list(Reader().read(file, Unit(0, 0, 0, 1, 0, 0)))) for file in found]
    assert [row["text"][0].as_py() for row in rows] == ["train 0", "train 1", "test 0"]


def test_a_data_set_with_indexes(tmp_path: Path) -> None:
    saved(tmp_path / "one", ["a.arrow"], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(BulkError, match="expected a data set without indexes; save dataset"):
        names(str(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(BulkError, match=r"state\.json: expected JSON"):
        names(str(tmp_path / "one"))

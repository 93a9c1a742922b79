"""Rows that cannot be read or computed: `on_error` does what it says, and messages have file, row and column."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrt import Embedder
from embedrt.bulk.options import Meaning, ModelChoice
from embedrt.bulk.plan import Unit
from embedrt.bulk.reading import Reader, tables
from embedrt.bulk.rows import Places
from embedrt.bulk.sources import find
from embedrt.bulk.transform import Transform
from embedrt.errors import BulkError
from tests.bulk.conftest import TEXTS, transform
from tests.bulk.test_transform import Remembered, vectors_of
from tests.kit.bundles import copy_bundle, poison

REMEDY = "; correct the row, or leave it out with --on-error null or skip"


def not_utf8() -> Any:
    """A column of strings of which one is not UTF-8, as damaged files have."""
    return pa.array([b"a", b"dos\xe9"]).view(pa.string())


COLUMNS = {
    "null": (pa.array(["a", None]), "expected str, got null"),
    "all null": (pa.nulls(2), "expected str, got null"),
    "NaN": (pa.array([1.0, float("nan")]), "expected str, got NaN"),
    "int": (pa.array([1, 2]), "expected str, got int"),
    "bytes": (pa.array([b"a", b"b"]), "expected str, got bytes"),
    "list": (pa.array([["a"], ["b"]]), "expected str, got list"),
    "struct": (pa.array([{"a": "b"}] * 2), "expected str, got dict"),
    "bool": (pa.array([True, False]), "expected str, got bool"),
    "encoding": (not_utf8(), "expected UTF-8, got byte 0xe9 at position 4"),
    "large": (not_utf8().cast(pa.large_string()), "expected UTF-8, got byte 0xe9 at position 4"),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), "expected str, got null"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_values_that_are_no_text(tiny: Embedder, tiny_bundle: Path, name: str) -> None:
    column, message = COLUMNS[name]
    table = pa.table({"id": [7, 8], "body": column}).slice(1)
    with pytest.raises(BulkError) as error:
        transform(tiny_bundle, text=("body",))(table, places=Places(("in/a.parquet",)), first_row=41)
    assert str(error.value) == f"in/a.parquet, row 41, column 'body': {message}{REMEDY}"
    for on_error, ids in [("null", [8]), ("skip", [])]:
        made = transform(tiny_bundle, text=("body",), on_error=on_error, keep=("id",), with_tokens=True)(table)
        assert [str(one) for one in made.errors] == [f"table, row 0, column 'body': {message}"]
        assert made.table["id"].to_pylist() == ids
        assert made.table.select(["embedding", "n_tokens", "truncated"]).to_pylist() == [
            {"embedding": None, "n_tokens": None, "truncated": None} for _ in ids
        ]
        assert (made.facts.rows, made.facts.written, made.facts.failed, made.facts.tokens) == (1, len(ids), 1, 0)


def test_good_rows_beside_bad_ones(tiny: Embedder, tiny_bundle: Path) -> None:
    table = pa.table({"body": ["", None, "the dog", None, ""]})
    for known in (None, Remembered()):
        made = transform(tiny_bundle, on_error="null")(table, known=known)
        assert [row is None for row in made.table["embedding"].to_pylist()] == [False, True, False, True, False]
        good = made.table.take([0, 2, 4])
        assert np.abs(vectors_of(good) - tiny.encode(["", "the dog", ""])).max() < 1e-6
        assert (made.facts.duplicates, made.facts.failed) == (1, 2)


def test_several_columns(tiny_bundle: Path) -> None:
    table = pa.table({"title": ["a", "b", None], "body": ["a", None, None]})
    made = transform(tiny_bundle, template="{title}{body}", on_error="skip")(table, places=Places(("f",)), first_row=10)
    assert [str(one) for one in made.errors] == [
        "f, row 11, column 'body': expected str, got null",
        "f, row 12, column 'title': expected str, got null",
    ]


def test_rows_without_an_id(tiny_bundle: Path) -> None:
    table = pa.table({"id": ["x", None, "z"], "body": ["a", "b", None]})
    with pytest.raises(BulkError, match="table, row 1, column 'id': expected an id, got null"):
        transform(tiny_bundle, id="id", text=("body",))(table)
    made = transform(tiny_bundle, id="id", text=("body",), on_error="skip")(table)
    assert made.table["id"].to_pylist() == ["x"]
    assert [one.column for one in made.errors] == ["id", "body"]


def test_bad_rows_of_chunks(tiny_bundle: Path) -> None:
    table = pa.table({"id": [0, 1, 2], "body": ["the dog " * 60, None, "the dog"]})
    made = transform(tiny_bundle, text=("body",), long_texts="chunks", on_error="null", with_tokens=True)(table).table
    assert made["id"].to_pylist() == [0, 0, 0, 1, 2]
    assert made["chunk"].to_pylist() == [0, 1, 2, None, 0]
    assert made["end"].to_pylist()[3:] == [None, 7]
    assert [row is None for row in made["embedding"].to_pylist()] == [False, False, False, True, False]


@pytest.fixture(scope="module")
def poisoned(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random BERT whose vector of the token "boat" is NaN."""
    folder = copy_bundle(tiny_bundle, tmp_path_factory.mktemp("poisoned") / "bundle")
    poison(folder, "boat", float("nan"))
    return folder


@pytest.mark.parametrize("long_texts", ["truncate", "chunks", "mean"])
@pytest.mark.parametrize("known", [False, True])
def test_vectors_that_are_not_finite(tiny: Embedder, poisoned: Path, table: Any, long_texts: Any, known: bool) -> None:
    store = Remembered() if known else None
    with pytest.raises(BulkError, match=r"^f, row 13, column 'body': the model returned NaN or infinity .*; correct"):
        transform(poisoned, text=("body",), long_texts=long_texts)(
            table, places=Places(("f",)), first_row=10, known=store
        )
    for _ in range(2):
        made = transform(poisoned, text=("body",), on_error="skip", long_texts=long_texts)(table, known=store)
        assert made.table["id"].to_pylist() == [0, 1, 2, 4, 5]
        assert [one.row for one in made.errors] == [3]
        good = [text for text in TEXTS if "boat" not in text]
        assert np.abs(vectors_of(made.table) - tiny.encode(good)).max() < 1e-6
    if store is not None and long_texts != "chunks":
        assert len(store.results) == 4


def test_all_rows_fail(poisoned: Path) -> None:
    table = pa.table({"body": ["a boat", "boat", "a boat"]})
    made = transform(poisoned, on_error="null")(table)
    assert made.table["embedding"].to_pylist() == [None] * 3
    assert (made.facts.failed, made.facts.duplicates) == (3, 1)


@pytest.mark.parametrize("on_error", ["null", "skip"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_from_file_to_vectors(tiny: Embedder, tiny_bundle: Path, name: str, on_error: Any, tmp_path: Path) -> None:
    content = {
        "a.jsonl": b'{"id": "1", "text": "the dog"}\nno\n{"id": "3", "text": null}\n{"id": "4", "text": ""}\n',
        "a.csv": b"id,text\n1,the dog\n2\n3,dos\xe9\n4,\n",
    }[name]
    messages = {
        "a.jsonl": ["expected a JSON object, got invalid JSON: Expecting value: line 1", "expected str, got null"],
        "a.csv": ["expected 2 values, got 1", "expected UTF-8, got byte 0xe9 at position 4"],
    }[name]
    (tmp_path / name).write_bytes(content)
    (file,) = find([str(tmp_path / name)], None, tmp_path)
    offset = content.index(b"\n") + 1 if name == "a.csv" else 0
    made = Transform(ModelChoice(str(tiny_bundle)), Meaning(text=("text",), on_error=on_error))
    (table,) = tables(Reader().read(file, Unit(0, 0, 0, 4, offset, 0)), made.most_rows)
    found = made(table, places=Places((file.name,)))
    assert found.table.column_names == ["id", "text", "embedding"]
    for error, row, column, message in zip(found.errors, (1, 2), (None, "text"), messages, strict=True):
        assert (error.file, error.row, error.column) == (name, row, column)
        assert error.message.startswith(message)
    good = found.table.filter(found.table["embedding"].is_valid())
    assert good["id"].to_pylist() == ["1", "4"]
    assert np.abs(vectors_of(good) - tiny.encode(["the dog", ""])).max() < 1e-6


rows = st.lists(st.sampled_from(["the dog", "", "a boat", "boat", None, "river " * 80]), max_size=12)


@given(
    texts=rows,
    start=st.integers(0, 3),
    on_error=st.sampled_from(["null", "skip"]),
    long_texts=st.sampled_from(["truncate", "mean", "chunks", "error"]),
    dedupe=st.booleans(),
    known=st.booleans(),
)
@settings(max_examples=40)
def test_any_table(
    tiny: Embedder, poisoned: Path, texts: Any, start: int, on_error: Any, long_texts: Any, dedupe: bool, known: bool
) -> None:
    table = pa.table({"id": range(len(texts)), "body": pa.array(texts, pa.string())}).slice(start)
    texts = texts[start:]
    meaning = Meaning(text=("body",), on_error=on_error, long_texts=long_texts)
    made = Transform(ModelChoice(str(poisoned)), meaning, dedupe=dedupe)
    found = made(table, first_row=start, known=Remembered() if known else None)
    is_bad = [text is None or "boat" in text or (long_texts == "error" and len(text) > 99) for text in texts]
    assert [error.row for error in found.errors] == [start + i for i, bad in enumerate(is_bad) if bad]
    assert found.table.schema.equals(made.schema(table.schema))
    assert (found.facts.rows, found.facts.failed) == (len(texts), sum(is_bad))
    assert found.facts.written == found.table.num_rows
    ids, vectors = found.table["id"].to_pylist(), found.table["embedding"].to_pylist()
    assert ids == [
        start + i
        for i, (text, bad) in enumerate(zip(texts, is_bad, strict=True))
        if on_error == "null" or not bad
        for _ in (tiny.windows(text) if long_texts == "chunks" and not bad else [None])
    ]
    for row, vector in zip(ids, vectors, strict=True):
        assert (vector is None) == is_bad[row - start]

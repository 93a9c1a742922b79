"""Tables of texts to tables with vectors: dense float32, duplicates, kept columns, metadata, pickling."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.bulk.options import Meaning, ModelChoice
from embedrt.bulk.transform import DETAILS, RECORD, Transform
from embedrt.errors import BulkError
from tests.bulk.conftest import TEXTS, transform


def vectors_of(table: Any, name: str = "embedding") -> NDArray[Any]:
    """The vectors of a table without nulls."""
    column = table[name].combine_chunks()
    found: NDArray[Any] = column.flatten().to_numpy().reshape(len(column), -1)
    return found


class Remembered:
    """A table of results in memory."""

    def __init__(self) -> None:
        self.results: dict[bytes, bytes] = {}
        self.added = 0

    def find(self, hashes: Sequence[bytes]) -> list[bytes | None]:
        """See `Known`."""
        return [self.results.get(one) for one in hashes]

    def add(self, hashes: Sequence[bytes], results: Sequence[bytes]) -> None:
        """See `Known`."""
        self.added += len(hashes)
        self.results.update(zip(hashes, results, strict=True))


def test_vectors_are_those_of_encode(tiny: Embedder, tiny_bundle: Path, table: Any) -> None:
    made = transform(tiny_bundle, text=("body",))(table)
    assert made.table.select(["id", "body", "score"]).equals(table)
    assert made.table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert np.abs(vectors_of(made.table) - tiny.encode(TEXTS)).max() < 1e-6
    assert (made.facts.rows, made.facts.written, made.facts.duplicates, made.facts.failed) == (6, 6, 1, 0)
    assert made.facts.tokens == sum(tiny.token_count(list(dict.fromkeys(TEXTS))))


def test_options_of_encode(tiny: Embedder, tiny_bundle: Path, table: Any) -> None:
    made = transform(tiny_bundle, text=("body",), prompt="the ", dim=7, normalize=True, vector="v", fixed_size=False)
    found = made(table).table
    assert found.schema.field("v").type == pa.list_(pa.float32())
    expected = tiny.encode(TEXTS, prompt="the ", truncate_dim=7, normalize_embeddings=True)
    assert np.abs(vectors_of(found, "v") - expected).max() < 1e-6


def test_tokens_and_truncation(tiny: Embedder, tiny_bundle: Path) -> None:
    table = pa.table({"body": ["the dog " * 100, "", "the dog"]})
    made = transform(tiny_bundle, with_tokens=True)(table)
    assert made.table["n_tokens"].to_pylist() == tiny.token_count(table["body"].to_pylist())
    assert made.table["truncated"].to_pylist() == [True, False, False]
    assert made.facts.truncated == 1


@pytest.mark.parametrize(
    ("keep", "names"),
    [(None, ["id", "body", "score"]), ((), []), (("score", "id"), ["score", "id"])],
)
def test_kept_columns(tiny_bundle: Path, table: Any, keep: tuple[str, ...] | None, names: list[str]) -> None:
    made = transform(tiny_bundle, text=("body",), keep=keep)
    assert made(table).table.column_names == [*names, "embedding"]
    assert made.schema(table.schema).names == [*names, "embedding"]


def test_the_id_is_kept(tiny_bundle: Path, table: Any) -> None:
    assert transform(tiny_bundle, id="id", keep=())(table).table.column_names == ["id", "embedding"]


def test_template(tiny: Embedder, tiny_bundle: Path, table: Any) -> None:
    table = table.append_column("title", [[f"the {i} {{" for i in range(6)]])
    made = transform(tiny_bundle, template="{title}\n{{}} {body}", text=("title", "body"))(table)
    expected = tiny.encode([f"the {i} {{\n{{}} {text}" for i, text in enumerate(TEXTS)])
    assert np.abs(vectors_of(made.table) - expected).max() < 1e-6


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(tiny_bundle: Path, table: Any, rows: int) -> None:
    made = transform(tiny_bundle)
    assert made(table.slice(0, rows)).table.num_rows == rows
    assert made(table.slice(0, rows)).table.schema.equals(made.schema(table.schema), check_metadata=True)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_kinds_of_text_columns(tiny: Embedder, tiny_bundle: Path, kind: Any) -> None:
    column = pa.chunked_array([pa.array(TEXTS[:2]).cast(kind), pa.array(["no", *TEXTS[2:]]).cast(kind).slice(1)])
    made = transform(tiny_bundle)(pa.table({"body": column}))
    assert made.table.schema.field("body").type == kind
    assert np.abs(vectors_of(made.table) - tiny.encode(TEXTS)).max() < 1e-6


def test_metadata(tiny: Embedder, tiny_bundle: Path, table: Any) -> None:
    metadata = transform(tiny_bundle, text=("body",), dim=8)(table).table.schema.metadata
    assert json.loads(metadata[RECORD])["fingerprint"] == tiny.fingerprint
    details = json.loads(metadata[DETAILS])
    assert (details["dtype"], details["options"]["dim"]) == ("float32", 8)


def test_a_copy_opens_the_model_again(tiny_bundle: Path, table: Any) -> None:
    made = transform(tiny_bundle)
    first = made(table).table
    copied = pickle.loads(pickle.dumps(made))
    assert (copied.model, copied.meaning, copied.dedupe) == (made.model, made.meaning, made.dedupe)
    assert copied(table).table.equals(first)


def test_without_dedupe(tiny_bundle: Path, table: Any) -> None:
    made = Transform(ModelChoice(str(tiny_bundle)), Meaning(), dedupe=False)(table)
    assert made.facts.duplicates == 0
    assert np.abs(vectors_of(made.table) - vectors_of(transform(tiny_bundle)(table).table)).max() < 1e-6


def test_known_results_are_not_computed_again(tiny_bundle: Path, table: Any) -> None:
    made, known = transform(tiny_bundle, with_tokens=True), Remembered()
    first = made(table.slice(0, 3), known=known)
    both = made(table, known=known)
    assert (first.facts.duplicates, both.facts.duplicates, known.added) == (0, 4, 5)
    assert both.facts.tokens < made(table).facts.tokens
    plain = made(table).table
    assert both.table.drop_columns("embedding").equals(plain.drop_columns("embedding"))
    assert np.abs(vectors_of(both.table) - vectors_of(plain)).max() < 1e-6


def test_known_results_of_other_options_are_others(tiny_bundle: Path, table: Any) -> None:
    known = Remembered()
    transform(tiny_bundle)(table, known=known)
    transform(tiny_bundle, prompt="the ")(table, known=known)
    transform(tiny_bundle, vector="v", keep=())(table, known=known)
    assert known.added == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ("title",)}, "column 'title': missing; the columns are 'id', 'body', 'score'"),
        ({"text": ("id", "body")}, "text: expected one column or a template, got 'id', 'body'; add --template"),
        ({"template": "text"}, "template: expected a column in braces, such as {title}, got 'text'"),
        ({"template": "{body!r}"}, "template: expected column names in braces"),
        ({"template": "{body"}, "template: expected '}' before end of string"),
        (
            {"template": "{body} {id}", "text": ("body",)},
            "template: expected the fields 'body', got 'id'; add --text id",
        ),
        ({"keep": ("name",)}, "column 'name': missing; the columns are"),
        ({"id": "name"}, "column 'name': missing; the columns are"),
        ({"vector": "score"}, "column 'score': the source has a column of this name already; leave it out with --keep"),
    ],
)
def test_wrong_options(tiny_bundle: Path, table: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BulkError) as error:
        transform(tiny_bundle, **options).schema(table.schema)
    assert str(error.value).startswith(message)


def test_several_text_columns(tiny_bundle: Path, table: Any) -> None:
    table = table.append_column("title", [TEXTS])
    with pytest.raises(BulkError, match="text: expected one text column, got 'body', 'title' of the columns"):
        transform(tiny_bundle).schema(table.schema)
    table = table.append_column("body", [TEXTS])
    with pytest.raises(BulkError, match="column 'body': expected one, got 2; rename one of them"):
        transform(tiny_bundle, text=("title",)).schema(table.schema)

"""Tables of texts for every task and type of vectors: results are those of the public classes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedrt import (
    CrossEncoder,
    Embedder,
    MultiVectorEncoder,
    SparseEncoder,
    SparseVectors,
    quantize_embeddings,
    vector_ranges,
)
from embedrt.bulk.transform import Transform
from embedrt.errors import BulkError
from embedrt_export import export
from tests.bulk.conftest import TEXTS, transform
from tests.bulk.test_transform import Remembered, vectors_of
from tests.kit import late_models, score_models, sparse_models
from tests.kit.bundles import copy_bundle
from tests.kit.shared_folders import shared_folder

LONG = "the dog and the cat on the river bank " * 12


def bundle(make: Callable[[Path], Path], name: str, factory: pytest.TempPathFactory) -> Path:
    """The bundle of a model, made once a run."""
    return shared_folder(factory, f"bulk/{name}", lambda folder: export(make(folder.parent / f"{name}-source"), folder))


@pytest.fixture(scope="module")
def sparse_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(sparse_models.splade, "sparse", tmp_path_factory)


@pytest.fixture(scope="module")
def late_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(late_models.fixed, "late", tmp_path_factory)


@pytest.fixture(scope="module")
def score_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(score_models.MODELS["sigmoid"], "score", tmp_path_factory)


def sparse_of(table: Any, width: int) -> SparseVectors:
    """The sparse vectors of a table."""
    rows = [(np.array(one["indices"], np.int32), np.array(one["values"], np.float32)) for one in table.to_pylist()]
    return SparseVectors.from_rows(rows, width)


@pytest.mark.parametrize("task", [None, "query", "document"])
def test_sparse(sparse_bundle: Path, table: Any, task: str | None) -> None:
    made = transform(sparse_bundle, task=task, with_tokens=True)(table)
    model = SparseEncoder(sparse_bundle)
    encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}[task]
    expected = encode(TEXTS)
    found = sparse_of(made.table["embedding"], expected.width)
    assert (found.indices == expected.indices).all()
    assert np.abs(found.values - expected.values).max() < 1e-6
    assert made.facts.tokens > 0
    assert min(made.table["n_tokens"].to_pylist()) > 0


@pytest.mark.parametrize("fixed_size", [True, False])
@pytest.mark.parametrize("task", [None, "query", "document"])
def test_multi_vector(late_bundle: Path, table: Any, task: str | None, fixed_size: bool) -> None:
    made = transform(late_bundle, task=task, fixed_size=fixed_size)(table)
    model = MultiVectorEncoder(late_bundle)
    encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}[task]
    for one, other in zip(made.table["embedding"].to_pylist(), encode(TEXTS), strict=True):
        assert np.abs(np.array(one, np.float32).reshape(other.shape) - other).max(initial=0) < 1e-6


def test_scores(score_bundle: Path, table: Any) -> None:
    pairs = table.append_column("query", [["the dog", "", "a", "the dog", "the dog", "b"]])
    made = transform(score_bundle, text=("query", "body"), vector="relevance")(pairs)
    expected = CrossEncoder(score_bundle).predict(list(zip(pairs["query"].to_pylist(), TEXTS, strict=True)))
    assert np.abs(made.table["relevance"].to_numpy() - expected).max() < 1e-6
    assert made.facts.duplicates == 1
    with pytest.raises(
        BulkError, match="text: expected two columns without a template, query and document, got 'body'"
    ):
        transform(score_bundle, text=("body",)).schema(pairs.schema)
    with pytest.raises(BulkError, match="task: a reranker has no tasks; leave it out"):
        transform(score_bundle, task="query").schema(pairs.schema)


@pytest.mark.parametrize(
    "options", [{"dim": 8}, {"vector_type": "int8"}, {"normalize": True}, {"long_texts": "chunks"}]
)
def test_options_of_dense_vectors_alone(sparse_bundle: Path, table: Any, options: dict[str, Any]) -> None:
    with pytest.raises(BulkError, match=f"{next(iter(options))}: "):
        transform(sparse_bundle, **options).schema(table.schema)


def known_results(made: Transform, table: Any) -> None:
    """Check that results from a table on disk are the same."""
    known, column = Remembered(), made.meaning.vector
    first = made(table, known=known).table[column]
    again = made(table, known=known)
    assert again.facts.tokens == 0
    assert again.table[column].equals(first)
    assert again.table.schema.equals(made.schema(table.schema))


def test_known_results_of_pairs_that_differ_by_their_border(score_bundle: Path) -> None:
    made = transform(score_bundle, text=("query", "body"))
    pairs = pa.table({"query": ["the dog\0a", "the dog"], "body": ["b", "a\0b"]})
    known = Remembered()
    made(pairs.slice(0, 1), known=known)
    again, expected = (made(pairs, known=table).table["embedding"].to_numpy() for table in (known, None))
    assert np.abs(again - expected).max() < 1e-6


def test_known_results_of_every_task(
    tiny_bundle: Path, sparse_bundle: Path, late_bundle: Path, score_bundle: Path, table: Any
) -> None:
    known_results(transform(tiny_bundle, vector_type="ubinary", fixed_size=False), table)
    known_results(transform(sparse_bundle), table)
    known_results(transform(late_bundle), table)
    known_results(transform(score_bundle, text=("body", "query")), table.append_column("query", [TEXTS]))


@pytest.fixture(scope="module")
def ranged_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random BERT with ranges."""
    from embedrt import ranges

    folder = copy_bundle(tiny_bundle, tmp_path_factory.mktemp("ranged") / "bundle")
    ranges(folder, [f"the dog {i} on the river" for i in range(200)])
    return folder


@pytest.mark.parametrize("vector_type", ["float16", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("fixed_size", [True, False])
def test_types_of_vectors(ranged_bundle: Path, table: Any, vector_type: Any, fixed_size: bool) -> None:
    made = transform(ranged_bundle, vector_type=vector_type, fixed_size=fixed_size)
    found = vectors_of(made(table).table)
    model = Embedder(ranged_bundle)
    expected = (
        model.encode(TEXTS).astype(np.float16)
        if vector_type == "float16"
        else model.encode(TEXTS, precision=vector_type)
    )
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected.astype(np.float64)).max() <= (
        1e-3 if vector_type == "float16" else 1
    )
    assert (b'"ranges"' in made.metadata[b"embedrt.bulk"]) == (vector_type in {"int8", "uint8"})


def test_int8_without_ranges(tiny_bundle: Path, table: Any) -> None:
    with pytest.raises(BulkError, match="vector_type: 'int8' needs the range of each coordinate; measure them with"):
        transform(tiny_bundle, vector_type="int8").schema(table.schema)
    assert quantize_embeddings(np.ones((2, 4)), "int8", vector_ranges(np.eye(4))).dtype == np.int8


@pytest.fixture
def long_table() -> Any:
    """Texts of which some are longer than the model reads."""
    return pa.table({"id": range(4), "body": ["the dog", LONG, "", LONG + "cat"]})


def test_mean_of_windows(tiny: Embedder, tiny_bundle: Path, long_table: Any) -> None:
    made = transform(tiny_bundle, long_texts="mean", with_tokens=True, normalize=True)(long_table)
    texts = long_table["body"].to_pylist()
    expected = tiny.encode_long(texts, normalize_embeddings=True)
    assert np.abs(vectors_of(made.table) - expected).max() < 1e-6
    assert made.table["n_tokens"].to_pylist() == tiny.token_count(texts, truncation=False)
    assert made.facts.truncated == 0


@pytest.mark.parametrize("prompt", [None, "the "])
def test_chunks(tiny: Embedder, tiny_bundle: Path, long_table: Any, prompt: str | None) -> None:
    again = pa.concat_tables([long_table, long_table.slice(1, 1)])
    made = transform(tiny_bundle, long_texts="chunks", with_tokens=True, dim=9, prompt=prompt)(again)
    texts = again["body"].to_pylist()
    windows = tiny.windows(texts, prompt=prompt)
    vectors = np.concatenate(tiny.encode_long(texts, combine="none", truncate_dim=9, prompt=prompt))
    assert made.table["id"].to_pylist() == [
        row for row, several in zip(again["id"].to_pylist(), windows, strict=True) for _ in several
    ]
    assert made.table["chunk"].to_pylist() == [i for several in windows for i in range(len(several))]
    spans = [tuple(span) for several in windows for span in several]
    assert list(zip(made.table["start"].to_pylist(), made.table["end"].to_pylist(), strict=True)) == spans
    assert np.abs(vectors_of(made.table) - vectors).max() < 1e-6
    assert max(made.table["n_tokens"].to_pylist()) == tiny.max_seq_length
    assert (made.facts.rows, made.facts.written, made.facts.duplicates) == (5, len(spans), 1)
    assert made.table.schema.equals(
        transform(tiny_bundle, long_texts="chunks", with_tokens=True, dim=9).schema(again.schema)
    )
    assert transform(tiny_bundle, long_texts="chunks")(again.slice(0, 0)).table.num_rows == 0


def test_long_texts_as_errors(tiny_bundle: Path, long_table: Any) -> None:
    with pytest.raises(BulkError, match=r"^table, row 1, column 'body': expected at most 48 tokens, got a longer text"):
        transform(tiny_bundle, long_texts="error")(long_table)
    made = transform(tiny_bundle, long_texts="error", on_error="skip")(long_table)
    assert made.table["id"].to_pylist() == [0, 2]
    assert [error.row for error in made.errors] == [1, 3]
    assert math.isclose(made.facts.failed, 2)

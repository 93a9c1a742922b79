"""Sparse vectors: the type, its formats, similarity and search."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import (
    EmbeddingsError,
    SparseVectors,
    cos_sim,
    dot_score,
    euclidean_sim,
    load_embeddings,
    manhattan_sim,
    save_embeddings,
    semantic_search,
)
from embedrt.vectors.similarity import SIMILARITIES
from embedrt.vectors.sparse import as_sparse, strongest
from embedrt.vectors.sparse_search import intersection, similarity, similarity_pairwise


def dense(rows: int, width: int = 40, *, seed: int = 0) -> NDArray[np.float32]:
    """Rows of which a fifth is not zero, and an empty one."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 1, (rows, width)).astype(np.float32)
    values[random.random(values.shape) < 0.8] = 0
    values[rows // 2] = 0
    return values


def test_dense_and_back() -> None:
    values = dense(6)
    vectors = SparseVectors.from_dense(values)
    assert vectors.shape == (6, 40)
    assert (vectors.rows, vectors.width, vectors.ndim, len(vectors)) == (6, 40, 2, 6)
    assert (vectors.to_dense() == values).all()
    assert vectors.counts.tolist() == np.count_nonzero(values, axis=1).tolist()
    assert (SparseVectors.from_dense(values[0]).to_dense() == values[0]).all()
    assert repr(vectors) == f"SparseVectors(shape=(6, 40), entries={np.count_nonzero(values)})"


def test_rows() -> None:
    values = dense(6)
    vectors = SparseVectors.from_dense(values)
    assert vectors[-1].shape == (40,)
    assert (vectors[-1].to_dense() == values[-1]).all()
    assert (vectors[1:5:2].to_dense() == values[1:5:2]).all()
    assert (vectors[[4, 0, 4]].to_dense() == values[[4, 0, 4]]).all()
    assert (vectors[np.arange(6) % 2 == 0].to_dense() == values[::2]).all()
    assert [one.shape for one in vectors] == [(40,)] * 6
    assert (SparseVectors.stack(list(vectors)).to_dense() == values).all()
    with pytest.raises(IndexError, match="expected a row from 0 to 5, got 6"):
        vectors[6]
    with pytest.raises(TypeError, match="expected rows of vectors, got one vector"):
        vectors[0][0]


def test_formats() -> None:
    vectors = SparseVectors.from_dicts([{7: 0.5, 2: 0.25}, {}, {0: 0.0, 1: 2.0}], width=8)
    assert vectors.to_dicts() == [{2: 0.25, 7: 0.5}, {}, {1: 2.0}]
    assert vectors.to_milvus() == vectors.to_dicts()
    assert vectors[0].to_milvus() == [{2: 0.25, 7: 0.5}]
    assert vectors.to_qdrant()[0] == {"indices": [2, 7], "values": [0.25, 0.5]}
    assert vectors[2].to_qdrant() == {"indices": [1], "values": [2.0]}
    tokens = [f"token{i}" for i in range(8)]
    assert vectors.to_opensearch(tokens)[0] == {"token2": 0.25, "token7": 0.5}
    with pytest.raises(ValueError, match="tokens: expected 8, one for every coordinate, got 2"):
        vectors.to_opensearch(["a", "b"])
    for made in (
        SparseVectors.from_dicts(vectors.to_dicts(), 8),
        SparseVectors.from_qdrant(vectors.to_qdrant(), 8),
        as_sparse(list(vectors), "vectors"),
    ):
        assert (made.to_dense() == vectors.to_dense()).all()
    assert SparseVectors.from_dicts({3: 1.0}, 8).shape == (8,)
    assert SparseVectors.from_qdrant({"indices": [3], "values": [1.0]}, 8).to_dicts() == {3: 1.0}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([0], [1.0], [0, 1], (1, 0)), "indices: expected integers from 0 to -1"),
        (([0, 0], [1.0, 2.0], [0, 2], (1, 5)), "indices: expected coordinates that rise"),
        (([3, 1], [1.0, 2.0], [0, 2], (5,)), "indices: expected coordinates that rise"),
        (([1, 5], [1.0, 2.0], [0, 2], (5,)), "indices: expected integers from 0 to 4"),
        (([-1, 4], [1.0, 2.0], [0, 2], (5,)), "indices: expected integers from 0 to 4"),
        (([0.5], [1.0], [0, 1], (5,)), "indices: expected integers"),
        (([1], [np.nan], [0, 1], (5,)), "values: expected finite numbers"),
        (([1], [1.0], [0, 2], (5,)), "indices and values: expected 2 entries"),
        (([1], [1.0], [0, 1], (2, 5)), "indptr: expected 3 bounds"),
        (([1], [1.0], [1, 1], (5,)), "indptr: expected 2 bounds that rise from 0"),
        (([1], [1.0], [0, 1], (1, 2, 5)), "shape: expected"),
    ],
)
def test_arrays_that_do_not_fit(arrays: tuple[Any, Any, Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseVectors(np.array(arrays[0]), np.array(arrays[1]), np.array(arrays[2]), arrays[3])


def test_what_is_no_vector() -> None:
    with pytest.raises(TypeError, match="vectors: expected vectors"):
        as_sparse(["a text"], "vectors")
    with pytest.raises(ValueError, match=r"vectors: expected \[rows, width\]"):
        as_sparse(np.zeros((1, 2, 3)), "vectors")
    with pytest.raises(ValueError, match="expected sparse vectors of equal width"):
        SparseVectors.stack([SparseVectors.from_dicts({}, 3), SparseVectors.from_dicts({}, 4)])


def test_strongest() -> None:
    vectors = SparseVectors.from_dicts([{0: 1.0, 3: -5.0, 4: 2.0, 6: 2.0}, {1: 0.5}, {}], width=8)
    assert vectors.strongest(2).to_dicts() == [{3: -5.0, 4: 2.0}, {1: 0.5}, {}]
    assert vectors.strongest(None) is vectors
    assert vectors.strongest(4) is vectors
    assert strongest(np.array([1.0, -1.0, 1.0, 3.0]), 2).tolist() == [0, 3]
    with pytest.raises(ValueError, match="count: expected a positive integer, got 0"):
        vectors.strongest(0)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity(name: str) -> None:
    a, b = dense(7), dense(5, seed=1)
    b[0] = a[0]
    left, right = SparseVectors.from_dense(a), SparseVectors.from_dense(b)
    wanted = SIMILARITIES[name]
    assert np.abs(similarity(left, right, name) - wanted.matrix(a, b)).max() < 5e-6
    assert np.abs(similarity(left, b, name) - wanted.matrix(a, b)).max() < 5e-6
    assert similarity(left[0], right[0], name).shape == (1, 1)
    assert np.abs(similarity_pairwise(left[:5], right, name) - wanted.pairwise(a[:5], b)).max() < 5e-6
    assert np.abs(similarity_pairwise(left[0], right, name) - wanted.pairwise(a[0], b)).max() < 5e-6
    assert similarity_pairwise(left[0], right[0], name).shape == ()
    if name in {"euclidean", "manhattan"}:
        assert similarity(left, right, name)[0, 0] == similarity_pairwise(left[0], right[0], name) == 0
    assert similarity([], right, name).shape == (0, 5)
    assert similarity(left, [], name).shape == (7, 0)
    with pytest.raises(ValueError, match="expected equal numbers of vectors, got 7 and 5"):
        similarity_pairwise(left, right, name)
    with pytest.raises(ValueError, match="expected vectors of equal width, got 40 and 3 coordinates"):
        similarity(left, np.ones((1, 3)), name)


def test_distances_near_zero() -> None:
    """`|a|² + |b|² - 2ab` has no digits left there."""
    a = np.full((1, 50), 3.0, np.float32)
    b = a.copy()
    b[0, 7] += np.float32(1e-4)
    distance = float(np.abs(b - a).max())
    assert similarity(SparseVectors.from_dense(a), SparseVectors.from_dense(b), "euclidean")[0, 0] == -np.float32(
        distance
    )


def test_intersection() -> None:
    one, others = (
        SparseVectors.from_dicts({1: 2.0, 3: 1.0, 4: -1.0}, 6),
        SparseVectors.from_dicts([{1: 0.5, 2: 9.0, 4: 3.0}, {}, {3: 4.0}], 6),
    )
    assert intersection(one, others).to_dicts() == [{1: 1.0}, {}, {3: 4.0}]
    assert intersection(one, others[0]).to_dicts() == {1: 1.0}
    with pytest.raises(ValueError, match="embeddings_1: expected one vector"):
        intersection(others, one)


@pytest.mark.parametrize("function", [cos_sim, dot_score, euclidean_sim, manhattan_sim])
def test_search(function: Any) -> None:
    queries, corpus = dense(4, seed=2), dense(60, seed=3)
    corpus[40:] = corpus[:20]  # ties are in corpus order
    wanted = semantic_search(queries, corpus, top_k=9, score_function=function)
    for chunk in (7, 500):
        found = semantic_search(
            SparseVectors.from_dense(queries),
            SparseVectors.from_dense(corpus),
            top_k=9,
            score_function=function,
            corpus_chunk_size=chunk,
        )
        for ours, theirs in zip(found, wanted, strict=True):
            assert np.allclose([hit["score"] for hit in ours], [hit["score"] for hit in theirs], atol=1e-5)
        assert [hit["corpus_id"] for hit in found[0]] == [hit["corpus_id"] for hit in wanted[0]]
    assert semantic_search(SparseVectors.from_dense(queries), corpus[:0].reshape(0, 40)) == [[]] * 4
    with pytest.raises(ValueError, match="score_function: expected cos_sim"):
        semantic_search(SparseVectors.from_dense(queries), corpus, score_function=lambda a, b: a @ b.T)
    with pytest.raises(ValueError, match="corpus_precision: expected None for sparse vectors"):
        semantic_search(SparseVectors.from_dense(queries), corpus, corpus_precision="int8")


def test_files(tmp_path: Path) -> None:
    vectors = SparseVectors.from_dense(dense(3))
    save_embeddings(tmp_path / "docs.safetensors", ["a", "b", "c"], vectors)
    loaded = load_embeddings(tmp_path / "docs.safetensors")
    assert loaded.texts == ["a", "b", "c"]
    assert isinstance(loaded.vectors, SparseVectors)
    assert (loaded.vectors.to_dense() == vectors.to_dense()).all()
    with pytest.raises(ValueError, match=r"expected the suffix .safetensors for sparse vectors, got '.npy'"):
        save_embeddings(tmp_path / "docs.npy", ["a", "b", "c"], vectors)
    with pytest.raises(ValueError, match="vectors: expected 2, one per text, got 3"):
        save_embeddings(tmp_path / "docs.safetensors", ["a", "b"], vectors)
    content = bytearray((tmp_path / "docs.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "docs.safetensors").write_bytes(content)
    with pytest.raises(EmbeddingsError, match="cannot be read as embeddings"):
        load_embeddings(tmp_path / "docs.safetensors")

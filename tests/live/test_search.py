"""Similarities, quantization and searches against those of sentence-transformers itself.

It gets the same numbers in float64, where its own rounding does not show: its distances of float32 are 4e-6 off.
"""

import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SimilarityFunction, util
from sentence_transformers.util.quantization import _dequantize_embeddings

from embedrt.types import Precision
from embedrt.vectors.quantization import (
    PRECISIONS,
    dequantize_embeddings,
    quantize_embeddings,
    vector_ranges,
)
from embedrt.vectors.search import (
    community_detection,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
)
from embedrt.vectors.similarity import SIMILARITIES, find_similarity, normalize_embeddings, truncate_embeddings

Array = NDArray[Any]
NAMES = list(SIMILARITIES)
SCALARS: list[Precision] = ["int8", "uint8"]
TOLERANCE = 1e-6


def random(count: int, dim: int = 384, seed: int = 0, dtype: Any = np.float32) -> Array:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    units: Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    return units


def clustered(count: int, dim: int = 384, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Around 40 centres, with a common direction and a spectrum that falls, as embeddings of sentences have it."""
    centers = np.random.default_rng(99).standard_normal((40, dim))
    rng = np.random.default_rng(seed)
    vectors = centers[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, dim))
    vectors = vectors / np.sqrt(np.arange(1, dim + 1)) + 0.1
    units: Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    return units


DATA = [pytest.param(random, id="random"), pytest.param(clustered, id="clustered")]


def same(ours: list[list[dict[str, int | float]]], theirs: list[list[dict[str, int | float]]]) -> None:
    """Equal scores, and equal ids wherever no other score is as near as the tolerance."""
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        scores = np.array([hit["score"] for hit in other])
        np.testing.assert_allclose([hit["score"] for hit in mine], scores, rtol=TOLERANCE, atol=TOLERANCE)
        apart = np.diff(scores, prepend=np.inf, append=-np.inf) < -4 * TOLERANCE
        for place in np.flatnonzero(apart[:-1] & apart[1:])[: len(scores) - 1]:  # the last may have a rival left out
            assert mine[place]["corpus_id"] == other[place]["corpus_id"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("name", NAMES)
def test_similarities(name: str, make: Any, dtype: Any) -> None:
    a, b = make(60, dtype=dtype), make(70, seed=1, dtype=dtype)
    function = SimilarityFunction(name)
    matrix = SimilarityFunction.to_similarity_fn(function)
    pairwise = SimilarityFunction.to_similarity_pairwise_fn(function)
    ours = find_similarity(function)
    for x, y in [(a, b), (a[0], b), (a, b[0])]:
        expected = matrix(x.astype(np.float64), y.astype(np.float64)).numpy()
        for form in (lambda array: array, torch.tensor, list, lambda array: list(torch.tensor(array))):
            found = ours.matrix(form(x), form(y))
            assert (found.shape, str(found.dtype)) == (expected.shape, str(matrix(x, y).numpy().dtype))
            np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    for x, y in [(a, b[:60]), (a[0], b[0])]:
        expected = pairwise(x.astype(np.float64), y.astype(np.float64)).numpy()
        for form in (lambda array: array, torch.tensor):
            found = ours.pairwise(form(x), form(y))
            assert (found.shape, str(found.dtype)) == (expected.shape, str(pairwise(x, y).numpy().dtype))
            np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_lists_of_numbers() -> None:
    a, b = random(3, 5).tolist(), random(4, 5, seed=1).tolist()
    for name in NAMES:
        expected = SimilarityFunction.to_similarity_fn(name)(a, b).numpy()
        np.testing.assert_allclose(find_similarity(name).matrix(a, b), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_tensors_that_numpy_cannot_take() -> None:
    a = torch.tensor(random(5))
    expected = util.cos_sim(a.bfloat16(), a)
    for tensor in (a.bfloat16(), a.bfloat16().requires_grad_(), list(a.bfloat16())):
        found = find_similarity("cosine").matrix(tensor, a)
        np.testing.assert_allclose(found, expected.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_euclidean_distances_are_nearer_to_the_truth() -> None:
    a = 10 * random(40)
    b = a + 1e-4 * random(40, seed=1)
    truth = -np.linalg.norm(a.astype(np.float64) - b, axis=1)
    ours = np.abs(np.diag(find_similarity("euclidean").matrix(a, b)) / truth - 1).max()
    theirs = np.abs(np.diag(util.euclidean_sim(a, b).numpy()) / truth - 1).max()
    assert ours < 1e-6 < theirs


def test_normalize_and_truncate() -> None:
    vectors = random(20) * 5
    vectors[3] = 0
    vectors[4] *= 1e-14
    expected = torch.nn.functional.normalize(torch.tensor(vectors), dim=-1).numpy()
    np.testing.assert_allclose(normalize_embeddings(vectors), expected, rtol=TOLERANCE, atol=1e-7)
    np.testing.assert_array_equal(truncate_embeddings(vectors, 64), util.truncate_embeddings(vectors, 64))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dim", [384, 37])
@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_quantization(precision: Precision, make: Any, dim: int, dtype: Any) -> None:
    vectors, calibration = make(300, dim, dtype=dtype), make(500, dim, seed=1, dtype=dtype)
    vectors[:, 5] = 0.25
    ranges = vector_ranges(calibration)
    tokens = [vectors[:100], vectors[:0], vectors[100:]]
    cases: list[tuple[Any, dict[str, Any]]] = [
        (vectors, {}),
        (vectors, {"ranges": ranges}),
        (vectors, {"calibration_embeddings": calibration}),
        (vectors[0], {"ranges": ranges}),
        (list(vectors), {}),
        (torch.tensor(vectors), {}),
        (list(torch.tensor(vectors)), {"ranges": ranges}),
        (tokens, {}),
        (tokens, {"ranges": ranges}),
        (tokens, {"calibration_embeddings": calibration}),
        (vectors[:0], {}),
        ([], {}),
    ]
    for embeddings, arguments in cases:
        expected = util.quantize_embeddings(embeddings, precision, **arguments)
        found = quantize_embeddings(embeddings, precision, **arguments)
        assert isinstance(found, list) == isinstance(expected, list)
        for codes, same_codes in zip(found, expected, strict=True):
            assert codes.dtype == same_codes.dtype
            np.testing.assert_array_equal(codes, same_codes)


@pytest.mark.parametrize("precision", SCALARS)
def test_dequantization(precision: Precision) -> None:
    vectors = clustered(300)
    ranges = vector_ranges(vectors)
    codes = quantize_embeddings(vectors, precision, ranges)
    expected = _dequantize_embeddings(codes, precision, ranges)
    np.testing.assert_allclose(dequantize_embeddings(codes, precision, ranges), expected, rtol=0, atol=1e-7)


def test_few_vectors_are_warned_of_alike(caplog: pytest.LogCaptureFixture) -> None:
    for count, warnings in [(99, 1), (100, 0)]:
        for function in (quantize_embeddings, util.quantize_embeddings):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                function(random(count), "int8")
            assert len(caplog.records) == warnings
    for function in (quantize_embeddings, util.quantize_embeddings):
        with pytest.raises(ValueError, match=re.compile("one|single|got 1;")):
            function(random(1), "int8")


@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("name", NAMES)
def test_semantic_search(name: str, make: Any) -> None:
    queries, corpus = make(40), make(3000, seed=1)
    theirs, ours = SimilarityFunction.to_similarity_fn(name), find_similarity(name).matrix
    wide = queries.astype(np.float64), corpus.astype(np.float64)
    cases: list[dict[str, Any]] = [
        {},
        {"top_k": 1},
        {"query_chunk_size": 7, "corpus_chunk_size": 333, "top_k": 25},
        {"top_k": 4000},
    ]
    for arguments in cases:
        expected = util.semantic_search(*wide, score_function=theirs, **arguments)
        same(semantic_search(queries, corpus, score_function=ours, **arguments), expected)
    expected = util.semantic_search(*wide, score_function=theirs)
    same(semantic_search(torch.tensor(queries), torch.tensor(corpus), score_function=ours), expected)
    same(semantic_search(*wide, score_function=theirs), expected)
    same(semantic_search(queries[0], corpus), util.semantic_search(queries[0], corpus))


@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("precision", SCALARS)
def test_search_of_scalar_codes(precision: Precision, make: Any) -> None:
    """The scores of candidates that sentence-transformers computes from codes, here of the whole corpus."""
    queries, corpus = make(20), make(2000, seed=1)
    ranges = vector_ranges(corpus)
    codes = quantize_embeddings(corpus, precision, ranges)
    restored = _dequantize_embeddings(codes, precision, ranges)
    for name in NAMES:
        theirs = SimilarityFunction.to_similarity_fn(name)
        found = semantic_search(
            queries, codes, score_function=find_similarity(name).matrix, corpus_precision=precision, ranges=ranges
        )
        same(found, util.semantic_search(queries.astype(np.float64), restored, score_function=theirs))


@pytest.mark.parametrize("make", DATA)
def test_search_of_bits(make: Any) -> None:
    """Candidates by Hamming distance, in the order of the products of queries and unpacked bits."""
    queries, corpus = make(20, dtype=np.float64), make(2000, seed=1)
    codes = quantize_embeddings(corpus, "binary")
    bits = np.unpackbits(util.quantize_embeddings(corpus, "ubinary"), axis=-1).astype(np.float64)
    expected = util.semantic_search(queries, bits, top_k=10, score_function=util.dot_score)
    for name in NAMES:
        found = semantic_search(
            queries,
            codes,
            score_function=find_similarity(name).matrix,
            corpus_precision="binary",
            rescore_multiplier=200,
        )
        same(
            [
                [{"corpus_id": hit["corpus_id"], "score": other["score"]} for hit, other in zip(a, b, strict=True)]
                for a, b in zip(found, expected, strict=True)
            ],
            expected,
        )


@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("name", NAMES)
def test_mining(name: str, make: Any) -> None:
    vectors = make(600, 64)
    theirs = SimilarityFunction.to_similarity_fn(name)
    cases: list[dict[str, Any]] = [
        {},
        {"top_k": 3},
        {"max_pairs": 200},
        {"query_chunk_size": 50, "corpus_chunk_size": 70, "top_k": 5, "max_pairs": 1000},
    ]
    for arguments in cases:
        expected = util.paraphrase_mining_embeddings(torch.tensor(vectors).double(), score_function=theirs, **arguments)
        found = paraphrase_mining_embeddings(vectors, score_function=find_similarity(name).matrix, **arguments)
        assert len(found) == len(expected)
        scores = [score for score, _, _ in expected]
        np.testing.assert_allclose([score for score, _, _ in found], scores, rtol=TOLERANCE, atol=TOLERANCE)
        missed = {(i, j) for _, i, j in found} ^ {(i, j) for _, i, j in expected}
        assert len(missed) <= 4  # pairs with equal scores to within rounding, at a limit


class Encoder:
    """Stands for a model: its vectors are known."""

    def encode(self, sentences: list[str], *, convert_to_tensor: bool = False, **_: Any) -> Any:
        vectors = clustered(len(sentences), 64)
        return torch.tensor(vectors) if convert_to_tensor else vectors


def test_paraphrase_mining() -> None:
    texts = [f"text {index}" for index in range(200)]
    expected = util.paraphrase_mining(Encoder(), texts)
    found = paraphrase_mining(Encoder(), texts)
    np.testing.assert_allclose([pair[0] for pair in found], [pair[0] for pair in expected], atol=TOLERANCE)
    assert [pair[1:] for pair in found[:50]] == [pair[1:] for pair in expected[:50]]


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("smallest", [2, 10, 40])
@pytest.mark.parametrize("make", DATA)
def test_communities(make: Any, smallest: int, threshold: float) -> None:
    vectors = make(1500, 64)
    for batch in (1024, 100):
        expected = util.community_detection(vectors, threshold, smallest, batch)
        assert community_detection(vectors, threshold, smallest, batch) == expected
    assert community_detection(torch.tensor(vectors), threshold, smallest) == expected
    if make is clustered and threshold < 0.9:
        assert expected

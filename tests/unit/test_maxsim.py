"""MaxSim against sums written out in float64, in blocks of every size, and what is refused."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from embedrt.vectors.maxsim import EMPTY_DOCUMENT, maxsim, maxsim_pairwise, mean_maxsim, mean_maxsim_pairwise

Item = NDArray[np.float32]


def one_pair(query: Item, document: Item) -> float:
    if not len(document):
        return EMPTY_DOCUMENT
    return float(sum(max(float(q @ d) for d in document.astype(float)) for q in query.astype(float)))


@st.composite
def items(draw: st.DrawFn, dim: int) -> list[Item]:
    counts = draw(st.lists(st.integers(0, 5), max_size=6))
    return [draw(arrays(np.float32, (count, dim), elements=st.floats(-4, 4, width=16))) for count in counts]


@given(data=st.data(), dim=st.integers(1, 5), chunk=st.sampled_from([None, 1, 20, 60, 1000]))
def test_every_query_with_every_document(data: st.DataObject, dim: int, chunk: int | None) -> None:
    queries, documents = data.draw(items(dim)), data.draw(items(dim))
    scores = maxsim(queries, documents, chunk_elements=chunk)
    expected = [[one_pair(query, document) for document in documents] for query in queries]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, np.reshape(expected, (len(queries), len(documents))), atol=1e-4)
    counts = np.array([max(len(query), 1) for query in queries], np.float32)[:, np.newaxis]
    np.testing.assert_array_equal(mean_maxsim(queries, documents, chunk_elements=chunk), scores / counts)
    np.testing.assert_array_equal(mean_maxsim(queries, documents, None, None, chunk, length_normalize=False), scores)


@given(data=st.data(), dim=st.integers(1, 5))
def test_pairs(data: st.DataObject, dim: int) -> None:
    queries, documents = data.draw(items(dim)), data.draw(items(dim))
    count = min(len(queries), len(documents))
    queries, documents = queries[:count], documents[:count]
    scores = maxsim_pairwise(queries, documents)
    expected = [one_pair(*pair) for pair in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(scores, np.array(expected), atol=1e-4)
    counts = np.array([max(len(query), 1) for query in queries], np.float32)
    np.testing.assert_array_equal(mean_maxsim_pairwise(queries, documents), scores / counts)


def test_one_query_and_one_document() -> None:
    query, document = np.eye(2, dtype=np.float32), np.array([[0.5, 0], [0, 2]], np.float32)
    assert maxsim(query, document).tolist() == [[2.5]]
    assert maxsim_pairwise(query, document).tolist() == [2.5]
    assert maxsim(query, []).shape == (1, 0)
    assert maxsim([], []).shape == (0, 0)


def test_zero_vectors_of_a_padded_array_do_not_count() -> None:
    documents = np.array([[[-1, 0], [0, 0]], [[0, 0], [0, 0]]], np.float32)
    assert maxsim([np.ones((1, 2), np.float32)], documents).tolist() == [[-1, EMPTY_DOCUMENT]]
    queries = np.array([[[1, 0], [0, 0]]], np.float32)
    assert mean_maxsim(queries, documents[:1]).tolist() == [[-1]]


def test_masks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 2)), rng.standard_normal((2, 5, 2))
    a_mask, b_mask = rng.random((3, 4)) < 0.5, rng.random((2, 5)) < 0.5
    left = [item[mask] for item, mask in zip(a, a_mask, strict=True)]
    right = [item[mask] for item, mask in zip(b, b_mask, strict=True)]
    np.testing.assert_array_equal(maxsim(a, b, a_mask, b_mask), maxsim(left, right))
    np.testing.assert_array_equal(maxsim(list(a), list(b), list(a_mask), list(b_mask)), maxsim(left, right))
    np.testing.assert_array_equal(maxsim(a[0], b, a_mask[0]), maxsim(left[:1], list(b)))


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.float64])
def test_other_dtypes(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    a, b = [(rng.standard_normal((3, 4)) * 8).astype(dtype)], [(rng.standard_normal((5, 4)) * 8).astype(dtype)]
    np.testing.assert_allclose(maxsim(a, b), [[one_pair(a[0], b[0])]], rtol=1e-5)


def test_a_document_without_vectors_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "embedrt"):
        maxsim([np.ones((1, 2))], [np.ones((1, 2)), np.ones((0, 2))])
    assert "1 of 2 documents have no vectors" in caplog.text


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones(3), [], r"a: expected a list of arrays \[vectors, dim\].* got the shape \[3\]"),
        ([np.ones((1, 2))], [np.ones(2)], r"b\[0\]: expected the shape \[vectors, dim\], got \[2\]"),
        ([np.ones((1, 2))], [np.ones((1, 3))], r"expected vectors of equal width, got \[2, 3\]"),
        ([np.ones((1, 2))], [np.ones((1, 2)), np.array([[np.nan, 0]])], r"b\[1\]: NaN or infinity"),
        ([np.full((1, 2), np.inf)], [np.ones((1, 2))], r"a\[0\]: NaN or infinity"),
        ([np.full((1, 2), 3e38)], [np.ones((1, 2))], "a score overflows float32"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_refused(a: Any, b: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maxsim(a, b)


def test_what_else_is_refused() -> None:
    ones = [np.ones((1, 2))]
    with pytest.raises(ValueError, match="as many queries as documents, got 1 and 2"):
        maxsim_pairwise(ones, ones * 2)
    with pytest.raises(TypeError, match=r"b\[0\]: expected vectors"):
        maxsim(ones, ["text"])
    with pytest.raises(ValueError, match="chunk_elements"):
        maxsim(ones, ones, chunk_elements=0)
    with pytest.raises(ValueError, match=r"a_mask: expected one number per vector, \[1\], got \[2\]"):
        maxsim(ones, ones, [np.ones(2)])

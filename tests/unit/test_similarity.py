"""Similarities against sums written out in float64, and what is refused."""

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from embedrt.vectors.similarity import (
    SIMILARITIES,
    cos_sim,
    dot_score,
    euclidean_sim,
    find_similarity,
    manhattan_sim,
    normalize_embeddings,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    truncate_embeddings,
)

Vector = NDArray[np.float64]


def cosine(a: Vector, b: Vector) -> float:
    return float(a @ b / max(float(np.linalg.norm(a)), 1e-12) / max(float(np.linalg.norm(b)), 1e-12))


ONE_PAIR: dict[str, Callable[[Vector, Vector], float]] = {
    "cosine": cosine,
    "dot": lambda a, b: float(a @ b),
    "euclidean": lambda a, b: -float(np.sqrt(((a - b) ** 2).sum())),
    "manhattan": lambda a, b: -float(np.abs(a - b).sum()),
}
NAMES = list(SIMILARITIES)
TOLERANCE = {np.dtype(np.float16): 1e-5, np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-9}


@st.composite
def two_sets(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[Any]]:
    dim = draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    numbers = st.floats(-4, 4, width=16)
    n, m = draw(st.integers(0, 6)), draw(st.integers(0, 40))
    return (
        draw(arrays(dtype, (n, dim), elements=numbers)),
        draw(arrays(dtype, (m, dim), elements=numbers)),
    )


@pytest.mark.parametrize("name", NAMES)
@given(sets=two_sets())
def test_matrix_is_every_pair(name: str, sets: tuple[NDArray[Any], NDArray[Any]]) -> None:
    a, b = sets
    found = SIMILARITIES[name].matrix(a, b)
    assert found.dtype == (np.float64 if a.dtype == np.float64 else np.float32)
    expected = [[ONE_PAIR[name](x, y) for y in b.astype(np.float64)] for x in a.astype(np.float64)]
    np.testing.assert_allclose(found, np.reshape(expected, (len(a), len(b))), rtol=0, atol=TOLERANCE[a.dtype])


@pytest.mark.parametrize("name", NAMES)
@given(sets=two_sets())
def test_pairwise_is_the_diagonal(name: str, sets: tuple[NDArray[Any], NDArray[Any]]) -> None:
    count = min(map(len, sets))
    a, b = sets[0][:count], sets[1][:count]
    found = SIMILARITIES[name].pairwise(a, b)
    assert found.shape == (count,)
    expected = [ONE_PAIR[name](x, y) for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[a.dtype])


@pytest.mark.parametrize("name", NAMES)
def test_blocks_and_sides(name: str) -> None:
    """More numbers than are compared at a time, with either side the longer one."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2100, 40)), rng.standard_normal((2200, 40))
    found, turned = SIMILARITIES[name].matrix(a, b), SIMILARITIES[name].matrix(b, a)
    np.testing.assert_allclose(found, turned.T, rtol=0, atol=1e-12)
    for i, j in [(0, 0), (1023, 1023), (1024, 1024), (2047, 2048), (2099, 2199), (1637, 1639), (5, 2100)]:
        assert found[i, j] == pytest.approx(ONE_PAIR[name](a[i], b[j]), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_one_vector_is_one_row(name: str) -> None:
    a, b = np.array([1.0, 2.0, 2.0]), np.array([[0.0, 0.0, 1.0], [1.0, 2.0, 2.0]])
    similarity = SIMILARITIES[name]
    expected = np.array([ONE_PAIR[name](a, row) for row in b])
    assert similarity.matrix(a, b).shape == (1, 2)
    np.testing.assert_allclose(similarity.matrix(b, a)[:, 0], expected)
    np.testing.assert_allclose(similarity.pairwise(a, b), expected)
    np.testing.assert_allclose(similarity.pairwise(b, a), expected)
    single = similarity.pairwise(a, b[0])
    assert single.shape == ()
    assert float(single) == pytest.approx(expected[0])


@pytest.mark.parametrize("name", NAMES)
def test_what_vectors_may_be(name: str) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal((5, 6)).astype(np.float32)
    function = SIMILARITIES[name].matrix
    expected = function(a, b)
    wide = np.zeros((5, 12), np.float32)
    wide[:, ::2] = b
    for same in (list(b), b.tolist(), np.asfortranarray(b), wide[:, ::2], b[::-1][::-1], tuple(b)):
        np.testing.assert_allclose(function(a, same), expected, rtol=0, atol=1e-6)
    b.setflags(write=False)
    before = a.copy(), b.copy()
    np.testing.assert_array_equal(function(a, b), expected)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def test_codes_do_not_overflow() -> None:
    codes = np.full((1, 400), 127, np.int8)
    assert dot_score(codes, codes) == 127 * 127 * 400
    assert manhattan_sim(codes, -codes) == -254 * 400
    assert cos_sim(np.full(400, 255, np.uint8), codes) == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_no_vectors(name: str) -> None:
    similarity, some = SIMILARITIES[name], np.ones((3, 4), np.float32)
    assert similarity.matrix(some, np.empty((0, 4), np.float32)).shape == (3, 0)
    assert similarity.matrix([], some).shape == (0, 3)
    assert similarity.matrix(some, []).shape == (3, 0)
    assert similarity.matrix([], []).shape == (0, 0)
    assert similarity.pairwise(some[:0], some[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_euclidean_is_exact_near_zero(dtype: Any) -> None:
    """Long vectors close to each other: the difference of squares would be zero or noise."""
    rng = np.random.default_rng(3)
    a = (100 * rng.standard_normal((60, 384))).astype(dtype)
    b = np.nextafter(a, dtype(np.inf))
    b[::2] += (rng.standard_normal((30, 384)) * 1e-2).astype(dtype)
    exact = -np.sqrt(((a.astype(np.longdouble) - b.astype(np.longdouble)) ** 2).sum(axis=1)).astype(np.float64)
    tolerance = 1e-6 if dtype is np.float32 else 1e-9
    np.testing.assert_allclose(np.diag(euclidean_sim(a, b)), exact, rtol=tolerance, atol=0)
    itself = np.diag(euclidean_sim(a, a))
    assert (itself == 0).all()
    assert not np.signbit(itself).any()


def test_euclidean_between_near_and_far() -> None:
    rng = np.random.default_rng(4)
    a = rng.standard_normal((50, 384))
    for shift in (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 1.0):
        b = a + shift * rng.standard_normal(a.shape)
        expected = -np.linalg.norm(a - b, axis=1)
        np.testing.assert_allclose(np.diag(euclidean_sim(a, b)), expected, rtol=1e-9, atol=0)


def test_zero_vectors() -> None:
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert (cos_sim(zeros, ones) == 0).all()
    assert (cos_sim(zeros, zeros) == 0).all()
    assert (pairwise_cos_sim(zeros, ones) == 0).all()
    assert (normalize_embeddings(zeros) == 0).all()
    tiny = normalize_embeddings(np.array([1e-13, 0], np.float32))
    np.testing.assert_allclose(tiny, [0.1, 0], rtol=1e-5)


def test_normalize_embeddings() -> None:
    vectors = np.array([[3, 4], [0, 0], [-5, 12]], np.float16)
    units = normalize_embeddings(vectors)
    assert units.dtype == np.float32
    np.testing.assert_allclose(units, np.array([[0.6, 0.8], [0, 0], [-5 / 13, 12 / 13]]), rtol=1e-6)
    assert normalize_embeddings([3.0, 4.0]).tolist() == pytest.approx([0.6, 0.8])
    assert vectors[0, 0] == 3
    assert normalize_embeddings(np.empty((0, 4))).shape == (0, 4)
    with pytest.raises(ValueError, match=r"the norm of a vector overflows float32; scale the vector, or pass float64"):
        normalize_embeddings(np.full((1, 4), 1e30, np.float32))
    assert normalize_embeddings(np.full(4, 1e30)).tolist() == [0.5] * 4


def test_truncate_embeddings() -> None:
    vectors = np.arange(12.0).reshape(2, 6)
    assert truncate_embeddings(vectors, 2).tolist() == [[0, 1], [6, 7]]
    assert truncate_embeddings(vectors[0], 3).tolist() == [0, 1, 2]
    assert truncate_embeddings(vectors, None) is vectors
    for wrong in (0, 7, -1, True, 2.0):
        with pytest.raises(ValueError, match=r"truncate_dim: expected 1 to 6 or None, got "):
            truncate_embeddings(vectors, wrong)  # type: ignore[arg-type]


class Names(Enum):
    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    MAXSIM = "maxsim"


def test_find_similarity() -> None:
    assert find_similarity("cosine").matrix is cos_sim
    assert find_similarity(Names.DOT_PRODUCT).pairwise is pairwise_dot_score
    assert find_similarity("euclidean").pairwise is pairwise_euclidean_sim
    assert find_similarity("manhattan").pairwise is pairwise_manhattan_sim
    for unknown in (Names.MAXSIM, "maxsim", "cos", None):
        with pytest.raises(ValueError, match=r"expected one of 'cosine', 'dot', 'euclidean', 'manhattan'"):
            find_similarity(unknown)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit(name: str) -> None:
    matrix, pairwise = SIMILARITIES[name].matrix, SIMILARITIES[name].pairwise
    some = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="a and b: expected vectors of equal width, got 4 and 5 coordinates"):
        matrix(some, np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"a: expected one vector \[dim\] or several \[n, dim\], got the shape \[1, 3"):
        matrix(some[None], some)
    for a, b in ((some, some[:2]), (some, np.ones((3, 5))), (some[None], some[None]), (np.float32(1), some)):
        with pytest.raises(ValueError, match="expected equal numbers of vectors, or one vector"):
            pairwise(a, b)
    for function in (matrix, pairwise):
        for bad in (np.nan, np.inf, -np.inf):
            broken = some.copy()
            broken[1, 2] = bad
            with pytest.raises(ValueError, match=r"b: NaN or infinity in 1 of 3 vectors \(rows 1\); leave them out"):
                function(some, broken)
        with pytest.raises(TypeError, match=r"a: expected vectors .* got text; encode it first"):
            function(["a text"], some)
        with pytest.raises(TypeError, match="a: expected vectors"):
            function(None, some)
        with pytest.raises(TypeError, match=r"a: expected vectors .* got ndarray of complex64"):
            function(some * 1j, some)
        with pytest.raises(ValueError, match="b: expected vectors of equal length"):
            function(some, [[1.0, 2.0], [1.0]])


def test_many_broken_vectors_are_counted() -> None:
    broken = np.full((9, 2), np.nan)
    with pytest.raises(ValueError, match=r"in 9 of 9 vectors \(rows 0, 1, 2, \.\.\.\)"):
        cos_sim(broken, broken)


def test_large_finite_numbers_are_no_infinity() -> None:
    large = np.full((4, 2), 3e38, np.float32)
    assert manhattan_sim(large, large).max() == 0

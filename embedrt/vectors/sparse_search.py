"""Similarity and search of sparse vectors: exact, in float64, over lists of the entries of every coordinate.

A query only reads the entries of its own coordinates. Sums of a pair of vectors run over the coordinates in rising
order, so that results do not depend on the sizes of blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.vectors.arrays import SMALLEST_NORM
from embedrt.vectors.similarity import CLOSE
from embedrt.vectors.sparse import SparseVectors, as_sparse, bounds_of, spans

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Measure:
    """A similarity as a sum over the coordinates that two vectors share.

    Attributes:
        shared: The addend of a shared coordinate, from the entries of both vectors.
        own: A sum over all entries of one vector, `[rows]`.
        score: The similarity from the sum and from `own` of both.
        scaled: True to scale the vectors to length 1 first.
        subtracts: True if scores near zero are differences of large sums, and have to be computed again.
    """

    shared: Callable[[Doubles, Doubles], Doubles]
    own: Callable[[Doubles], Doubles]
    score: Callable[[Doubles, Doubles, Doubles], Doubles]
    scaled: bool = False
    subtracts: bool = False


def _product(a: Doubles, b: Doubles) -> Doubles:
    return a * b


def _distance(sums: Doubles, a: Doubles, b: Doubles) -> Doubles:
    distances: Doubles = np.sqrt(np.maximum(a + b - 2 * sums, 0))
    return 0 - distances


_MEASURES = {
    "cosine": _Measure(_product, np.zeros_like, lambda sums, _a, _b: sums, scaled=True),
    "dot": _Measure(_product, np.zeros_like, lambda sums, _a, _b: sums),
    "euclidean": _Measure(_product, np.square, _distance, subtracts=True),
    "manhattan": _Measure(
        lambda a, b: np.abs(a) + np.abs(b) - np.abs(a - b), np.abs, lambda sums, a, b: 0 - np.maximum(a + b - sums, 0)
    ),
}


@dataclass(frozen=True)
class _Side:
    """Vectors in float64, prepared for a measure.

    Attributes:
        vectors: The vectors.
        values: Their entries, scaled if the measure scales.
        own: The measure's sum over all entries of each, `[rows]`.
    """

    vectors: SparseVectors
    values: Doubles
    own: Doubles

    def row(self, i: int) -> slice:
        """The entries of a row."""
        return slice(self.vectors.indptr[i], self.vectors.indptr[i + 1])


@dataclass(frozen=True)
class _Lists:
    """Entries sorted by coordinate.

    Attributes:
        starts: The first entry of every coordinate, `[width + 1]`.
        rows: The row of every entry.
        values: The entries.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.intp]
    values: Doubles


def similarity(a: Any, b: Any, name: str) -> NDArray[np.float32]:
    """Similarity of every vector of the first to every vector of the second, float32 `[n, m]`.

    Args:
        a: Vectors that `as_sparse` takes.
        b: Likewise.
        name: "cosine", "dot", "euclidean" or "manhattan".

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: They differ in width.
    """
    left, right = _matrices(a, b)
    measure = _MEASURES[name]
    queries, corpus = _side(left, measure), _side(right, measure)
    lists = _lists(corpus)
    scores = np.empty((left.rows, right.rows), np.float32)
    for i in range(left.rows):
        scores[i] = _scores(queries, i, corpus, lists, measure)
    return scores


def similarity_pairwise(a: Any, b: Any, name: str) -> NDArray[np.float32]:
    """Similarity of each vector of the first to the one at the same place in the second, float32 `[n]`, or a number.

    One vector on one side is compared with all of the other. Arguments and errors are those of `similarity`.
    """
    first, second = as_sparse(a, "a"), as_sparse(b, "b")
    left, right = _matrices(first, second)
    if left.rows != right.rows:
        if 1 not in {first.ndim, second.ndim}:
            raise ValueError(f"a and b: expected equal numbers of vectors, got {left.rows} and {right.rows}")
        single = left if first.ndim == 1 else right
        repeated = single[np.zeros(max(left.rows, right.rows), int)]
        left, right = (repeated, right) if first.ndim == 1 else (left, repeated)
    measure = _MEASURES[name]
    x, y = _side(left, measure), _side(right, measure)
    rows, places, others = _shared(left, right)
    sums = _sums(rows, measure.shared(x.values[places], y.values[others]), left.rows)
    scores = measure.score(sums, x.own, y.own)
    if measure.subtracts:
        for i in np.flatnonzero(scores**2 <= CLOSE * (x.own + y.own)).tolist():
            scores[i] = _exact_distance(x, i, y, i)
    return np.asarray(scores.astype(np.float32) if 2 in {first.ndim, second.ndim} else np.float32(scores[0]))


def intersection(one: Any, others: Any) -> SparseVectors:
    """Products of the entries of one vector and of each of the others; only positive ones are kept.

    Args:
        one: One vector that `as_sparse` takes.
        others: One vector, or rows of vectors.

    Returns:
        As many vectors as `others` has.

    Raises:
        ValueError: `one` is not a single vector, or the widths differ.
    """
    first, second = as_sparse(one, "embeddings_1"), as_sparse(others, "embeddings_2")
    if first.ndim != 1:
        raise ValueError(f"embeddings_1: expected one vector [width], got the shape {list(first.shape)}")
    _matrices(first, second)
    weights = first.to_dense()
    products = second.values * weights[second.indices]
    kept = products > 0
    rows = np.repeat(np.arange(second.rows), second.counts)[kept]
    bounds = bounds_of(np.bincount(rows, minlength=second.rows))
    return SparseVectors(second.indices[kept], products[kept], bounds, second.shape)


def search(
    queries: Any, corpus: Any, k: int, name: str, chunk_size: int
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.intp]]]:
    """Find the k corpus vectors with the highest similarities for every query, ties in corpus order.

    Args:
        queries: Vectors that `as_sparse` takes.
        corpus: Likewise.
        k: Number of results per query.
        name: "cosine", "dot", "euclidean" or "manhattan".
        chunk_size: Maximum number of corpus vectors to compare at a time.

    Returns:
        The scores and the corpus indexes for every query, best first.
    """
    left, right = _matrices(queries, corpus)
    measure = _MEASURES[name]
    prepared = _side(left, measure)
    scores: list[Doubles] = [np.empty(0)] * left.rows
    ids: list[NDArray[np.intp]] = [np.empty(0, np.intp)] * left.rows
    for start in range(0, right.rows, chunk_size):
        block = _side(right if chunk_size >= right.rows else right[start : start + chunk_size], measure)
        lists = _lists(block)
        for i in range(left.rows):
            found = _scores(prepared, i, block, lists, measure)
            merged = np.concatenate([scores[i], found])
            places = np.concatenate([ids[i], np.arange(start, start + len(found))])
            best = _best(merged, min(k, len(merged)))
            scores[i], ids[i] = merged[best], places[best]
    return scores, ids


def _best(scores: Doubles, k: int) -> NDArray[np.intp]:
    """Places of the k highest scores, best first, ties in order."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]


def _scores(queries: _Side, i: int, corpus: _Side, lists: _Lists, measure: _Measure) -> Doubles:
    """The similarity of a query to every vector of the corpus."""
    row = queries.row(i)
    indices, values = queries.vectors.indices[row], queries.values[row]
    counts = lists.starts[indices + 1] - lists.starts[indices]
    entries = spans(lists.starts[indices], counts)
    addends = measure.shared(np.repeat(values, counts), lists.values[entries])
    sums = _sums(lists.rows[entries], addends, corpus.vectors.rows)
    scores = measure.score(sums, queries.own[i], corpus.own)
    if measure.subtracts:
        for j in np.flatnonzero(scores**2 <= CLOSE * (queries.own[i] + corpus.own)).tolist():
            scores[j] = _exact_distance(queries, i, corpus, j)
    return scores


def _exact_distance(a: _Side, i: int, b: _Side, j: int) -> float:
    """The negative Euclidean distance of two vectors, from the differences of their entries."""
    left, right = a.row(i), b.row(j)
    difference = np.zeros(a.vectors.width)
    difference[a.vectors.indices[left]] = a.values[left]
    difference[b.vectors.indices[right]] -= b.values[right]
    return 0.0 - float(np.sqrt(np.vecdot(difference, difference)))


def _sums(rows: NDArray[np.intp], values: Doubles, count: int) -> Doubles:
    """Sums of the values of each row, `[count]`."""
    sums: Doubles = np.bincount(rows, values, count).astype(np.float64, copy=False)
    return sums


def _side(vectors: SparseVectors, measure: _Measure) -> _Side:
    values = vectors.values.astype(np.float64)
    rows = np.repeat(np.arange(vectors.rows), vectors.counts)
    if measure.scaled:
        norms = np.sqrt(_sums(rows, values * values, vectors.rows))
        values = values / np.maximum(norms, SMALLEST_NORM)[rows]
    return _Side(vectors, values, _sums(rows, measure.own(values), vectors.rows))


def _lists(side: _Side) -> _Lists:
    vectors = side.vectors
    order = np.argsort(vectors.indices, kind="stable")
    starts = bounds_of(np.bincount(vectors.indices, minlength=vectors.width))
    rows = np.repeat(np.arange(vectors.rows), vectors.counts)
    return _Lists(starts, rows[order], side.values[order])


def _shared(a: SparseVectors, b: SparseVectors) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Entries that rows of equal place share: the row, and the places of the entry in both."""
    keys, others = (
        np.repeat(np.arange(one.rows, dtype=np.int64), one.counts) * one.width + one.indices for one in (a, b)
    )
    _, places, matching = np.intersect1d(keys, others, assume_unique=True, return_indices=True)
    return np.repeat(np.arange(a.rows), a.counts)[places], places, matching


def _matrices(a: Any, b: Any) -> tuple[SparseVectors, SparseVectors]:
    """Both arguments as rows of equal width; no vectors have any width."""
    left, right = as_sparse(a, "a").matrix, as_sparse(b, "b").matrix
    if left.shape == (0, 0):
        left = SparseVectors(left.indices, left.values, left.indptr, (0, right.width))
    if right.shape == (0, 0):
        right = SparseVectors(right.indices, right.values, right.indptr, (0, left.width))
    if left.width != right.width:
        raise ValueError(f"a and b: expected vectors of equal width, got {left.width} and {right.width} coordinates")
    return left, right

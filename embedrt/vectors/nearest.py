"""Exact top-k search: the k corpus vectors with the highest scores, for many queries at a time, block by block.

The result does not depend on the block size. A matmul rounds differently from block to block, so it only selects
candidates, with a margin larger than any rounding error; their scores are then computed pair by pair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.vectors.arrays import AT_ONCE, SMALLEST_NORM, Floats, as_floats, as_matrix, by_pair, lengths, scaled
from embedrt.vectors.quantization import packed_bytes
from embedrt.vectors.similarity import (
    CLOSE,
    cos_sim,
    dot_score,
    euclidean_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
)

ScoreFunction = Callable[[Any, Any], Any]
Indices = NDArray[np.intp]

# Maximum number of queries that are compared with a block of the corpus at a time.
QUERIES_AT_ONCE = 4096
# If more than this many times k scores per query reach the threshold, it is raised before sorting.
_TOO_MANY = 4
# To raise it, columns are put into this many groups, or this many times k if that is more.
_GROUPS = 512
_GROUPS_PER_K = 8


@dataclass(frozen=True)
class Matches:
    """The top k of the corpus for every query, best first, ties in corpus order.

    Attributes:
        scores: The scores, float64 `[queries, k]`.
        ids: The corpus indexes, `[queries, k]`.
    """

    scores: NDArray[np.float64]
    ids: Indices


@dataclass(frozen=True)
class _Block:
    """A block of the corpus with its score functions.

    Attributes:
        vectors: The vectors, `[columns, dim]`.
        scores: Function from queries `[rows, dim]` to scores `[rows, columns]`.
        by_pair: Function from `n` queries and `n` vectors to `n` scores that do not depend on the block; None if those
            of `scores` do not either.
        margin: Twice the maximum difference between the two functions, for each query or for all.
    """

    vectors: NDArray[Any]
    scores: Callable[[NDArray[Any]], NDArray[Any]]
    by_pair: Callable[[NDArray[Any], NDArray[Any]], Floats] | None = None
    margin: Callable[[NDArray[Any]], Floats | float] = lambda _: 0.0


def nearest(
    queries: Floats,
    read: Callable[[int, int], Floats],
    count: int,
    k: int,
    score_function: ScoreFunction,
    chunks: tuple[int, int],
) -> Matches:
    """Find the k highest scores of every query among the corpus vectors.

    Args:
        queries: `[queries, dim]`.
        read: Function that returns the corpus vectors `[stop - start, dim]` for `start` and `stop`.
        count: Number of corpus vectors.
        k: Number of results per query.
        score_function: See `semantic_search`.
        chunks: Maximum numbers of queries and of corpus vectors to compare at a time.
    """
    if score_function is cos_sim:
        queries = scaled(queries, "query_embeddings")
    prepare = _PREPARE.get(score_function) or partial(_custom, score_function)
    return _select(queries, lambda start, stop: prepare(read(start, stop)), count, k, chunks)


def nearest_bits(queries: Floats, corpus: NDArray[Any], k: int, chunks: tuple[int, int]) -> Matches:
    """Find the k smallest Hamming distances of every query to binary codes; scores are negative distances."""

    def block(start: int, stop: int) -> _Block:
        columns = np.ascontiguousarray(_words(packed_bytes(corpus[start:stop])).T)
        return _Block(columns.T, lambda words: _hamming(words, columns))

    return _select(_words(np.packbits(queries > 0, axis=1)), block, len(corpus), k, chunks)


def _cosines(vectors: Floats) -> _Block:
    norms = np.maximum(lengths(vectors, "corpus_embeddings"), SMALLEST_NORM)

    def scores(queries: Floats) -> Floats:
        products: Floats = queries @ vectors.T
        products /= norms
        return products

    def pairs(queries: Floats, some: Floats) -> Floats:
        return pairwise_dot_score(queries, scaled(some, "corpus_embeddings"))

    return _Block(vectors, scores, pairs, lambda queries: lengths(queries, "query_embeddings") * _rounding(queries))


def _dot_products(vectors: Floats) -> _Block:
    longest = _longest(vectors)
    return _Block(
        vectors,
        lambda queries: queries @ vectors.T,
        pairwise_dot_score,
        lambda queries: lengths(queries, "query_embeddings") * (longest * _rounding(queries)),
    )


def _distances(vectors: Floats) -> _Block:
    longest = _longest(vectors)

    def margin(queries: Floats) -> Floats:
        # Distances are computed in float64, from sums of at least `CLOSE` times the squared norms, and rounded once.
        rounding = 2 * float(np.finfo(queries.dtype).eps) + _rounding(queries, np.float64) / CLOSE**0.5
        margins: Floats = (lengths(queries, "query_embeddings") + longest) * rounding
        return margins

    return _Block(vectors, lambda queries: euclidean_sim(queries, vectors), pairwise_euclidean_sim, margin)


def _longest(vectors: Floats) -> float:
    longest: float = lengths(vectors, "corpus_embeddings").max().item()
    return longest


def _rounding(queries: Floats, dtype: Any = None) -> float:
    """Twice the maximum difference between two summation orders of a dot product, for vectors of length 1."""
    rounding: float = 2 * (queries.shape[1] + 2) * np.finfo(dtype or queries.dtype).eps.item()
    return rounding


def _custom(score_function: ScoreFunction, vectors: Floats) -> _Block:
    def scores(queries: Floats) -> Floats:
        matrix = as_matrix(score_function(queries, vectors), "score_function")
        if matrix.shape != (len(queries), len(vectors)):
            raise ValueError(
                f"score_function: expected the shape [{len(queries)}, {len(vectors)}], got {list(matrix.shape)}"
            )
        return as_floats(matrix, "score_function")

    return _Block(vectors, scores)


_PREPARE: dict[ScoreFunction, Callable[[Floats], _Block]] = {
    cos_sim: _cosines,
    dot_score: _dot_products,
    euclidean_sim: _distances,
}


def _select(
    queries: NDArray[Any], read: Callable[[int, int], _Block], count: int, k: int, chunks: tuple[int, int]
) -> Matches:
    """Find the k highest scores of every query, block by block."""
    k = min(k, count)
    best = Matches(np.full((len(queries), k), -np.inf), np.zeros((len(queries), k), np.intp))
    query_rows = min(chunks[0], QUERIES_AT_ONCE, len(queries))
    corpus_rows = min(chunks[1], max(1, AT_ONCE // max(queries.shape[1], query_rows)))
    for offset in range(0, count, corpus_rows):
        block = read(offset, min(offset + corpus_rows, count))
        for start in range(0, len(queries), query_rows):
            part = slice(start, start + query_rows)
            chunk = queries[part]
            scores = block.scores(chunk)
            rows, columns = _candidates(scores, best.scores[part, -1], k, block.margin(chunk))
            if not len(rows):
                continue
            exact = (
                by_pair(chunk, block.vectors, rows, columns, block.by_pair) if block.by_pair else scores[rows, columns]
            )
            _merge(best, part, rows, exact, columns + offset)
    return best


def _candidates(
    scores: NDArray[Any], worst: NDArray[np.float64], k: int, margin: Floats | float
) -> tuple[Indices, Indices]:
    """Rows and columns of the scores that may be in the top k, given the k-th best score so far."""
    threshold = np.nextafter(worst.astype(scores.dtype), np.inf, dtype=scores.dtype) - margin
    passed = scores >= threshold[:, np.newaxis]
    if scores.shape[1] > k and np.count_nonzero(passed) > _TOO_MANY * k * len(scores):
        threshold = np.maximum(threshold, _kth_lower_bound(scores, k) - margin)
        passed = scores >= threshold[:, np.newaxis]
    rows, columns = np.divmod(np.flatnonzero(passed), scores.shape[1])
    return rows, columns


def _kth_lower_bound(scores: NDArray[Any], k: int) -> NDArray[Any]:
    """A lower bound of the k-th highest score of every row: the k-th highest of the maxima of column groups."""
    groups = max(_GROUPS, _GROUPS_PER_K * k)
    width = scores.shape[1] // groups
    if width > 1:
        scores = scores[:, : width * groups].reshape(len(scores), width, groups).max(axis=1)
    kth: NDArray[Any] = np.partition(scores, -k, axis=1)[:, -k]
    return kth


def _merge(best: Matches, part: slice, rows: Indices, scores: Floats, ids: Indices) -> None:
    """Merge new scores, sorted by row and id, into the top k; their ids are larger than those already there."""
    held, k = best.scores[part].shape
    place = k + np.arange(len(rows)) - np.searchsorted(rows, rows)
    all_scores = np.full((held, place.max() + 1), -np.inf)
    all_ids = np.zeros(all_scores.shape, np.intp)
    all_scores[:, :k], all_ids[:, :k] = best.scores[part], best.ids[part]
    all_scores[rows, place], all_ids[rows, place] = scores, ids
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    best.scores[part] = np.take_along_axis(all_scores, order, axis=1)
    best.ids[part] = np.take_along_axis(all_ids, order, axis=1)


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bytes as 64-bit words, padded with zeros."""
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


def _hamming(queries: NDArray[np.uint64], columns: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Negative Hamming distances `[queries, columns]` of words `[queries, n]` and `[n, columns]`."""
    scores = np.empty((len(queries), columns.shape[1]), np.float32)
    for row, query in zip(scores, queries, strict=True):
        np.bitwise_count(columns ^ query[:, np.newaxis]).sum(axis=0, dtype=np.float32, out=row)
    return np.negative(scores, out=scores)

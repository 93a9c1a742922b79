"""The k vectors of a corpus with the highest scores, for many queries at a time, block by block.

The result does not depend on the blocks. A product of matrices rounds differently from block to block, so it only
chooses candidates, by a margin that no rounding exceeds; their scores are then computed pair by pair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.quantization import packed_bytes
from embedrt.similarity import cos_sim, dot_score
from embedrt.vectors import AT_ONCE, SMALLEST_NORM, Floats, as_floats, as_matrix, by_pair, lengths, scaled

ScoreFunction = Callable[[Any, Any], Any]
Indices = NDArray[np.intp]

# Queries that are compared with a block of the corpus at a time, at most.
QUERIES_AT_ONCE = 4096
# A bar that lets more than this many times k scores of a query pass is raised before they are sorted.
_TOO_MANY = 4


@dataclass(frozen=True)
class Found:
    """The best of the corpus for every query, the best first, equal scores in the order of the corpus.

    Attributes:
        scores: float64 `[queries, k]`.
        ids: Where in the corpus, `[queries, k]`.
    """

    scores: NDArray[np.float64]
    ids: Indices


@dataclass(frozen=True)
class _Block:
    """Vectors of the corpus, ready to be compared.

    Attributes:
        vectors: `[columns, dim]`.
        scores: Of queries `[rows, dim]` with all of them, `[rows, columns]`.
        by_pair: The score of every query with the vector at the same place, where `scores` may be rounded otherwise.
        reach: What times the length of a query no score exceeds; 0 where `by_pair` is None.
    """

    vectors: NDArray[Any]
    scores: Callable[[NDArray[Any]], NDArray[Any]]
    by_pair: Callable[[NDArray[Any], NDArray[Any]], Floats] | None = None
    reach: float = 0


def nearest(
    queries: Floats,
    read: Callable[[int, int], Floats],
    count: int,
    k: int,
    score_function: ScoreFunction,
    chunks: tuple[int, int],
) -> Found:
    """The k highest scores of every query among the `count` vectors that `read(start, stop)` gives.

    `chunks` are the numbers of queries and of vectors to compare at a time, at most.
    """
    if score_function is cos_sim:
        queries = scaled(queries, "query_embeddings")
        return _select(queries, lambda start, stop: _cosines(read(start, stop)), count, k, chunks)
    if score_function is dot_score:
        return _select(queries, lambda start, stop: _products(read(start, stop)), count, k, chunks)
    return _select(queries, lambda start, stop: _others(read(start, stop), score_function), count, k, chunks)


def nearest_bits(queries: Floats, corpus: NDArray[Any], k: int, chunks: tuple[int, int]) -> Found:
    """The k smallest Hamming distances of every query to the codes of a corpus, as negative scores."""

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

    return _Block(vectors, scores, lambda queries, some: np.vecdot(queries, scaled(some, "corpus_embeddings")), 1.0)


def _products(vectors: Floats) -> _Block:
    longest = float(lengths(vectors, "corpus_embeddings").max())
    return _Block(vectors, lambda queries: queries @ vectors.T, np.vecdot, longest)


def _others(vectors: Floats, score_function: ScoreFunction) -> _Block:
    def scores(queries: Floats) -> Floats:
        matrix = as_matrix(score_function(queries, vectors), "score_function")
        if matrix.shape != (len(queries), len(vectors)):
            raise ValueError(
                f"score_function: expected the shape [{len(queries)}, {len(vectors)}], got {list(matrix.shape)}"
            )
        return as_floats(matrix, "score_function")

    return _Block(vectors, scores)


def _select(
    queries: NDArray[Any], read: Callable[[int, int], _Block], count: int, k: int, chunks: tuple[int, int]
) -> Found:
    """The k highest scores of every query, block by block of the corpus."""
    k = min(k, count)
    best = Found(np.full((len(queries), k), -np.inf), np.zeros((len(queries), k), np.intp))
    query_rows = min(chunks[0], QUERIES_AT_ONCE, len(queries))
    corpus_rows = min(chunks[1], max(1, AT_ONCE // max(queries.shape[1], query_rows)))
    for offset in range(0, count, corpus_rows):
        block = read(offset, min(offset + corpus_rows, count))
        for start in range(0, len(queries), query_rows):
            part = slice(start, start + query_rows)
            chunk = queries[part]
            scores = block.scores(chunk)
            rows, columns = _candidates(scores, best.scores[part, -1], k, _margin(chunk, block))
            if not len(rows):
                continue
            exact = (
                by_pair(chunk, block.vectors, rows, columns, block.by_pair) if block.by_pair else scores[rows, columns]
            )
            _merge(best, part, rows, exact, columns + offset)
    return best


def _margin(queries: NDArray[Any], block: _Block) -> Floats | float:
    """Twice the most by which two ways to sum up a product can differ, for every query."""
    if not block.reach:
        return 0.0
    rounding = 2 * (queries.shape[1] + 2) * float(np.finfo(queries.dtype).eps)
    margin: Floats = lengths(queries, "query_embeddings") * (block.reach * rounding)
    return margin


def _candidates(
    scores: NDArray[Any], worst: NDArray[np.float64], k: int, margin: Floats | float
) -> tuple[Indices, Indices]:
    """Rows and columns of the scores that may be among the k best, given the k-th best so far."""
    bar = np.nextafter(worst.astype(scores.dtype), np.inf, dtype=scores.dtype) - margin
    passed = scores >= bar[:, np.newaxis]
    if scores.shape[1] > k and np.count_nonzero(passed) > _TOO_MANY * k * len(scores):
        bar = np.maximum(bar, np.partition(scores, -k, axis=1)[:, -k] - margin)
        passed = scores >= bar[:, np.newaxis]
    rows, columns = np.divmod(np.flatnonzero(passed), scores.shape[1])
    return rows, columns


def _merge(best: Found, part: slice, rows: Indices, scores: Floats, ids: Indices) -> None:
    """Puts new scores, sorted by row and id, among the best of their rows. Their ids are above all that are there."""
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
    """Bytes as words of 64 bits, filled up with zeros."""
    filled = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    filled[:, : packed.shape[1]] = packed
    return filled.view(np.uint64)


def _hamming(queries: NDArray[np.uint64], columns: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Negative numbers of bits that differ, `[queries, columns]`, of words `[queries, n]` and `[n, columns]`."""
    scores = np.empty((len(queries), columns.shape[1]), np.float32)
    for row, query in zip(scores, queries, strict=True):
        np.bitwise_count(columns ^ query[:, np.newaxis]).sum(axis=0, dtype=np.float32, out=row)
    return np.negative(scores, out=scores)

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
from embedrt.vectors import AT_ONCE, Floats, as_floats, as_matrix, by_pair, lengths, scaled

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


def nearest(
    queries: Floats,
    read: Callable[[int, int], Floats],
    count: int,
    k: int,
    score_function: ScoreFunction,
    chunks: tuple[int, int],
) -> Found:
    """The k highest scores of every query among the `count` vectors that `read(start, stop)` gives."""
    if score_function is cos_sim:
        queries = scaled(queries, "query_embeddings")
        return _select(
            queries, lambda start, stop: scaled(read(start, stop), "corpus_embeddings"), count, k, None, chunks
        )
    if score_function is dot_score:
        return _select(queries, read, count, k, None, chunks)

    def scores(queries: Floats, corpus: Floats) -> Floats:
        matrix = as_matrix(score_function(queries, corpus), "score_function")
        if matrix.shape != (len(queries), len(corpus)):
            raise ValueError(
                f"score_function: expected the shape [{len(queries)}, {len(corpus)}], got {list(matrix.shape)}"
            )
        return as_floats(matrix, "score_function")

    return _select(queries, read, count, k, scores, chunks)


def _select(
    queries: NDArray[Any],
    read: Callable[[int, int], NDArray[Any]],
    count: int,
    k: int,
    function: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] | None,
    chunks: tuple[int, int],
) -> Found:
    """The k highest values of `function`, or of the dot product where it is None, block by block of the corpus."""
    k = min(k, count)
    best = Found(np.full((len(queries), k), -np.inf), np.zeros((len(queries), k), np.intp))
    query_rows = min(chunks[0], QUERIES_AT_ONCE, len(queries))
    corpus_rows = min(chunks[1], max(1, AT_ONCE // max(1, queries.shape[1], query_rows)))
    for offset in range(0, count, corpus_rows):
        block = read(offset, min(offset + corpus_rows, count))
        for start in range(0, len(queries), query_rows):
            part = slice(start, start + query_rows)
            chunk = queries[part]
            scores = chunk @ block.T if function is None else function(chunk, block)
            rows, columns = _candidates(scores, best.scores[part, -1], k, _margin(chunk, block, function is None))
            if len(rows):
                pairs = by_pair(chunk, block, rows, columns, np.vecdot) if function is None else scores[rows, columns]
                _merge(best, part, rows, pairs, columns + offset)
    return best


def _margin(queries: Floats, corpus: Floats, product: bool) -> Floats | float:
    """Twice the most by which a product of matrices and a product of two vectors can differ, for every query."""
    if not product:
        return 0.0
    longest = lengths(corpus, "corpus_embeddings").max()
    rounding = 2 * queries.shape[1] * float(np.finfo(queries.dtype).eps)
    margin: Floats = lengths(queries, "query_embeddings") * (longest * rounding)
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


def nearest_bits(queries: Floats, corpus: NDArray[Any], k: int, chunks: tuple[int, int]) -> Found:
    """The k smallest Hamming distances of every query, as negative scores."""
    words = _words(np.packbits(queries > 0, axis=1))
    return _select(
        words, lambda start, stop: _words(packed_bytes(corpus[start:stop])), len(corpus), k, _hamming, chunks
    )


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bytes as words of 64 bits, filled up with zeros."""
    filled = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    filled[:, : packed.shape[1]] = packed
    return filled.view(np.uint64)


def _hamming(queries: NDArray[np.uint64], corpus: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Negative numbers of bits that differ, `[queries, corpus]`."""
    columns = np.ascontiguousarray(corpus.T)
    scores = np.empty((len(queries), len(corpus)), np.float32)
    for row, query in zip(scores, queries, strict=True):
        np.bitwise_count(columns ^ query[:, np.newaxis]).sum(axis=0, dtype=np.float32, out=row)
    return np.negative(scores, out=scores)

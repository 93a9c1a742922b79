"""MaxSim, the score of late interaction: each query vector takes its most similar document vector, and these add up.

Queries and documents are lists of arrays `[vectors, dim]`, one array `[n, vectors, dim]` padded with zero vectors, or a
single array `[vectors, dim]`. float16 and integers are computed in float32, float64 in float64; scores are float32.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.values import positive
from embedrt.vectors.arrays import Floats, as_array

logger = logging.getLogger("embedrt")

Scores = NDArray[np.float32]

EMPTY_DOCUMENT = -1e9
"""The score of a document without vectors, below that of every other one."""
# Numbers of a block: gathered vectors and their products. Little more than a core's cache; larger blocks are no faster.
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, eq=False)
class _Side:
    """The queries or the documents of a call.

    Attributes:
        name: The argument, for messages.
        items: The vectors of each, `[vectors, dim]`.
        lengths: The number of vectors of each, int64 `[items]`.
        dim: Coordinates of a vector.
        dtype: The dtype to compute in.
    """

    name: str
    items: Sequence[NDArray[Any]]
    lengths: NDArray[np.int64]
    dim: int
    dtype: np.dtype[Any]

    def taken(self, rows: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """The vectors of some items in one array, and the start of each item in it."""
        starts = np.cumsum(self.lengths[rows]) - self.lengths[rows]
        return np.concatenate([self.items[row] for row in rows], dtype=self.dtype, casting="unsafe"), starts


def maxsim(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Scores:
    """MaxSim of all queries `a` and all documents `b`: the sum over query vectors of the largest dot product.

    Args:
        a: The queries: a list of `[vectors, dim]`, a padded array `[n, vectors, dim]`, or one query `[vectors, dim]`.
        b: The documents, likewise.
        a_mask: True for each query vector that counts, in the same form as `a`; None counts all but the zero vectors of
            a padded array.
        b_mask: Likewise for the documents.
        chunk_elements: Numbers that are held at a time beside the input and the scores, unless a single pair has more;
            None takes as many as a cache holds.
        length_normalize: Divide each score by the number of query vectors, as in `mean_maxsim`.

    Returns:
        float32 `[n, m]`; -1e9 for a document without vectors.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: The shapes do not fit, or there is NaN or infinity.

    Example:
        >>> maxsim([[[1, 0], [0, 1]]], [[[1, 0]], [[0.5, 0], [0, 2]]]).tolist()
        [[1.0, 2.5]]
    """
    queries, documents = _sides(a, b, a_mask, b_mask)
    limit = _CHUNK_ELEMENTS if chunk_elements is None else positive(chunk_elements, "chunk_elements")
    scores = np.zeros((len(queries.items), len(documents.items)), np.float32)
    longest = int(documents.lengths.max(initial=0))
    for rows in _blocks(queries.lengths, queries.dim + longest, limit - longest * documents.dim):
        left, starts = queries.taken(rows)
        for columns in _blocks(documents.lengths, documents.dim + len(left), limit - left.size):
            right, firsts = documents.taken(columns)
            best = np.maximum.reduceat(left @ right.T, firsts, axis=1)
            scores[np.ix_(rows, columns)] = np.add.reduceat(best.astype(np.float32, copy=False), starts, axis=0)
    _require_finite(scores, queries, documents)
    scores[:, documents.lengths == 0] = _empty(documents)
    return scores / _counts(queries)[:, np.newaxis] if length_normalize else scores


def maxsim_pairwise(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Scores:
    """MaxSim of corresponding queries and documents.

    Arguments and errors are those of `maxsim`, with as many queries as documents.

    Returns:
        float32 `[n]`.

    Example:
        >>> maxsim_pairwise([[[1, 0], [0, 1]]], [[[0.5, 0], [0, 2]]]).tolist()
        [2.5]
    """
    queries, documents = _sides(a, b, a_mask, b_mask)
    if chunk_elements is not None:
        positive(chunk_elements, "chunk_elements")  # a pair is a block of its own
    if len(queries.items) != len(documents.items):
        raise ValueError(
            f"a and b: expected as many queries as documents, got {len(queries.items)} and {len(documents.items)}; "
            "maxsim compares all with all"
        )
    scores = np.zeros(len(queries.items), np.float32)
    for i in np.flatnonzero((queries.lengths > 0) & (documents.lengths > 0)).tolist():
        left, right = (side.items[i].astype(side.dtype, copy=False) for side in (queries, documents))
        scores[i] = (left @ right.T).max(axis=1).astype(np.float32, copy=False).sum()
    _require_finite(scores, queries, documents)
    scores[documents.lengths == 0] = _empty(documents)
    return scores / _counts(queries) if length_normalize else scores


def mean_maxsim(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = True,
) -> Scores:
    """MaxSim divided by the number of query vectors, so that scores of different queries compare.

    Arguments, result and errors are those of `maxsim`.

    Example:
        >>> mean_maxsim([[[1, 0], [0, 1]]], [[[0.5, 0], [0, 2]]]).tolist()
        [[1.25]]
    """
    return maxsim(a, b, a_mask, b_mask, chunk_elements, length_normalize)


def mean_maxsim_pairwise(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = True,
) -> Scores:
    """MaxSim of corresponding queries and documents, divided by the number of query vectors.

    Arguments, result and errors are those of `maxsim_pairwise`.
    """
    return maxsim_pairwise(a, b, a_mask, b_mask, chunk_elements, length_normalize)


@dataclass(frozen=True)
class MultiVectorSimilarity:
    """A similarity of multi-vector embeddings in both forms.

    Attributes:
        matrix: All queries with all documents, `[n, m]`.
        pairwise: Corresponding queries and documents, `[n]`.
    """

    matrix: Callable[..., Scores]
    pairwise: Callable[..., Scores]


MULTI_VECTOR_SIMILARITIES = {
    "maxsim": MultiVectorSimilarity(maxsim, maxsim_pairwise),
    "meanmaxsim": MultiVectorSimilarity(mean_maxsim, mean_maxsim_pairwise),
}


def find_multi_vector_similarity(name: str | Enum) -> MultiVectorSimilarity:
    """Look up a similarity by name, or by a member of an enum such as `SimilarityFunction`.

    Raises:
        ValueError: The name is unknown.
    """
    key = name.value if isinstance(name, Enum) else name
    if not isinstance(key, str) or key not in MULTI_VECTOR_SIMILARITIES:
        allowed = ", ".join(map(repr, MULTI_VECTOR_SIMILARITIES))
        raise ValueError(f"similarity_fn_name: expected one of {allowed}, got {key!r}")
    return MULTI_VECTOR_SIMILARITIES[key]


def as_items(value: Any, name: str, mask: Any = None) -> list[NDArray[Any]]:
    """Multi-vector embeddings as a list of arrays `[vectors, dim]`, mostly without a copy.

    Args:
        value: A list of `[vectors, dim]`, an array `[n, vectors, dim]` padded with zero vectors, or a single
            `[vectors, dim]`.
        name: The argument, for messages.
        mask: True for each vector that counts, in the same form; None counts all but the padding of an array.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: A shape does not fit.
    """
    if isinstance(value, list | tuple):
        items = [as_array(item, f"{name}[{i}]") for i, item in enumerate(value)]
        for i, item in enumerate(items):
            if item.ndim != 2:
                raise ValueError(f"{name}[{i}]: expected the shape [vectors, dim], got {list(item.shape)}")
        return items if mask is None else _masked(items, _masks(mask, name), name)
    array = as_array(value, name)
    if array.ndim not in {2, 3}:
        raise ValueError(
            f"{name}: expected a list of arrays [vectors, dim], or an array of two or three dimensions, got the shape "
            f"{list(array.shape)}"
        )
    items = [array] if array.ndim == 2 else list(array)
    if mask is not None:
        flat = as_array(mask, f"{name}_mask") if not isinstance(mask, list | tuple) else None
        masks = [flat] if flat is not None and flat.ndim == 1 else _masks(mask, name)
        return _masked(items, masks, name)
    return items if array.ndim == 2 else [_without_padding(item) for item in items]


def _without_padding(item: NDArray[Any]) -> NDArray[Any]:
    real = item.any(axis=1)
    return item if real.all() else item[real]


def _masks(mask: Any, name: str) -> list[NDArray[Any]]:
    return [as_array(row, f"{name}_mask[{i}]") for i, row in enumerate(mask)]


def _masked(items: list[NDArray[Any]], masks: list[NDArray[Any]], name: str) -> list[NDArray[Any]]:
    expected, got = [len(item) for item in items], [len(mask) for mask in masks]
    if expected != got:
        raise ValueError(f"{name}_mask: expected one number per vector, {str(expected)[:60]}, got {str(got)[:60]}")
    return [item[mask != 0] for item, mask in zip(items, masks, strict=True)]


def _sides(a: Any, b: Any, a_mask: Any, b_mask: Any) -> tuple[_Side, _Side]:
    """Both arguments of one width and one dtype."""
    left, right = as_items(a, "a", a_mask), as_items(b, "b", b_mask)
    widths = {item.shape[1] for item in (*left, *right) if len(item)}
    if len(widths) > 1:
        raise ValueError(f"a and b: expected vectors of equal width, got {sorted(widths)} coordinates")
    dtype = np.result_type(np.float32, *{item.dtype for item in (*left, *right)})
    dim = widths.pop() if widths else 0
    first, second = (
        _Side(name, items, np.fromiter(map(len, items), np.int64, len(items)), dim, dtype)
        for name, items in (("a", left), ("b", right))
    )
    return first, second


def _blocks(lengths: NDArray[np.int64], cost: int, limit: int) -> Iterator[NDArray[np.int64]]:
    """Split the items that have vectors into blocks of at most `limit` numbers, or of one item.

    Args:
        lengths: The number of vectors of each item.
        cost: Numbers per vector.
        limit: Numbers of a block.
    """
    rows = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[rows] * cost)
    starts = [0]
    while starts[-1] < len(rows):
        done = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(max(starts[-1] + 1, int(np.searchsorted(ends, done + limit, side="right"))))
    for start, end in pairwise(starts):
        yield rows[start:end]


def _counts(queries: _Side) -> Scores:
    return np.maximum(queries.lengths, 1).astype(np.float32)


def _empty(documents: _Side) -> float:
    """The score of documents without vectors, which a warning names."""
    if (empty := np.flatnonzero(documents.lengths == 0)).size:
        count = f"{len(empty)} of {len(documents.items)}"
        logger.warning("%s documents have no vectors; they score %.0e, below every other one", count, EMPTY_DOCUMENT)
    return EMPTY_DOCUMENT


def _require_finite(scores: Scores, *sides: _Side) -> None:
    """Require that all scores are finite; one that is not shows an input that is not."""
    if np.isfinite(scores).all():
        return
    for side in sides:
        for i, item in enumerate(side.items):
            if not np.isfinite(item).all():
                raise ValueError(
                    f"{side.name}[{i}]: NaN or infinity; leave it out, or check the model that made the vectors"
                )
    raise ValueError("a and b: a score overflows float32; scale the vectors")

"""Similarities of vectors as sentence-transformers names and computes them, with numpy: larger is more alike.

All take arrays, lists of vectors or tensors. float16 and integers are computed in float32, float64 in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.vectors.arrays import Floats, as_array, as_floats, as_matrix, by_pair, scaled

# Numbers that stay in the processor's cache while every vector of the other side is compared with them.
_IN_CACHE = 1 << 16
# Rows and columns of the distances that are computed at a time.
_TILE = 1024
# Squared distances below this share of the squared lengths are taken from the differences: |a|² + |b|² - 2ab has lost
# too many digits there.
CLOSE = 1e-4


def cos_sim(a: Any, b: Any) -> Floats:
    """Cosines of the angles between all vectors of `a` and all of `b`.

    Args:
        a: Vectors `[n, dim]`; `[dim]` is one of them.
        b: Vectors `[m, dim]`; `[dim]` is one of them.

    Returns:
        `[n, m]`. A vector of zeros has the cosine 0 to every other.

    Raises:
        TypeError: These are no numbers.
        ValueError: The shapes do not fit each other, or there is NaN or infinity.
    """
    a, b = _matrices(a, b)
    cosines: Floats = scaled(a, "a") @ scaled(b, "b").T
    return cosines


def dot_score(a: Any, b: Any) -> Floats:
    """Dot products of all vectors of `a` and all of `b`, `[n, m]`. Args and errors are those of `cos_sim`."""
    a, b = _matrices(a, b)
    products: Floats = a @ b.T
    return products


def euclidean_sim(a: Any, b: Any) -> Floats:
    """Negative Euclidean distances of all vectors of `a` and all of `b`, `[n, m]`; exact near zero too.

    Args and errors are those of `cos_sim`.
    """
    a, b = _matrices(a, b)
    negative = np.empty((len(a), len(b)), a.dtype)
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    squares_a, squares_b = np.vecdot(a, a), np.vecdot(b, b)
    for i in range(0, len(a), _TILE):
        for j in range(0, len(b), _TILE):
            x, y = a[i : i + _TILE], b[j : j + _TILE]
            sums = squares_a[i : i + _TILE, np.newaxis] + squares_b[j : j + _TILE]
            squared = sums - 2 * (x @ y.T)
            rows, columns = np.nonzero(squared <= CLOSE * sums)
            squared[rows, columns] = by_pair(x, y, rows, columns, lambda left, right: _squares(left - right))
            negative[i : i + _TILE, j : j + _TILE] = 0 - np.sqrt(squared)
    return negative


def manhattan_sim(a: Any, b: Any) -> Floats:
    """Negative sums of the absolute differences of all vectors of `a` and all of `b`, `[n, m]`.

    Args and errors are those of `cos_sim`.
    """
    a, b = _matrices(a, b)
    if len(a) > len(b):
        return manhattan_sim(b, a).T
    negative = np.empty((len(a), len(b)), a.dtype)
    size = max(1, _IN_CACHE // max(1, a.shape[1]))
    for j in range(0, len(b), size):
        block = np.ascontiguousarray(b[j : j + size])
        differences = np.empty_like(block)
        for i, vector in enumerate(a):
            np.abs(np.subtract(block, vector, out=differences), out=differences)
            negative[i, j : j + size] = 0 - differences.sum(axis=1)
    return negative


def pairwise_cos_sim(a: Any, b: Any) -> Floats:
    """The cosine of every vector of `a` and the one of `b` at the same place.

    Args:
        a: Vectors `[n, dim]`, or one `[dim]` that is compared with all of `b`.
        b: Vectors `[n, dim]`, or one `[dim]` that is compared with all of `a`.

    Returns:
        `[n]`; of one vector and another a single number.

    Raises:
        TypeError: These are no numbers.
        ValueError: The shapes do not fit each other, or there is NaN or infinity.
    """
    a, b = _pairs(a, b)
    return np.asarray(np.vecdot(scaled(a, "a"), scaled(b, "b")))


def pairwise_dot_score(a: Any, b: Any) -> Floats:
    """The dot products of vectors at the same place. Args, result and errors are those of `pairwise_cos_sim`."""
    return np.asarray(np.vecdot(*_pairs(a, b)))


def pairwise_euclidean_sim(a: Any, b: Any) -> Floats:
    """The negative Euclidean distances of vectors at the same place.

    Args, result and errors are those of `pairwise_cos_sim`.
    """
    a, b = _pairs(a, b)
    differences = np.subtract(a, b, dtype=np.float64)
    return np.asarray(0 - np.sqrt(_squares(differences)), a.dtype)


def pairwise_manhattan_sim(a: Any, b: Any) -> Floats:
    """The negative sums of the absolute differences of vectors at the same place.

    Args, result and errors are those of `pairwise_cos_sim`.
    """
    a, b = _pairs(a, b)
    return np.asarray(0 - np.abs(a - b).sum(axis=-1))


@dataclass(frozen=True)
class Similarity:
    """A similarity in both forms.

    Attributes:
        matrix: Of all vectors of one side with all of the other: `[n, dim]`, `[m, dim]` -> `[n, m]`.
        pairwise: Of the vectors at the same place: `[n, dim]`, `[n, dim]` -> `[n]`.
    """

    matrix: Callable[[Any, Any], Floats]
    pairwise: Callable[[Any, Any], Floats]


SIMILARITIES = {
    "cosine": Similarity(cos_sim, pairwise_cos_sim),
    "dot": Similarity(dot_score, pairwise_dot_score),
    "euclidean": Similarity(euclidean_sim, pairwise_euclidean_sim),
    "manhattan": Similarity(manhattan_sim, pairwise_manhattan_sim),
}


def find_similarity(name: str | Enum) -> Similarity:
    """The similarity of a name, which may be a member of an enum such as `SimilarityFunction`.

    Raises:
        ValueError: There is none of that name.
    """
    key = name.value if isinstance(name, Enum) else name
    if not isinstance(key, str) or key not in SIMILARITIES:
        allowed = ", ".join(map(repr, SIMILARITIES))
        raise ValueError(f"similarity: {key!r} is unknown; expected one of {allowed}")
    return SIMILARITIES[key]


def normalize_embeddings(embeddings: Any) -> Floats:
    """The vectors at length 1; vectors of zeros stay so.

    Args:
        embeddings: `[dim]` or `[n, dim]`.

    Returns:
        A new array of the same shape, float32 or float64.

    Raises:
        TypeError: These are no numbers.
        ValueError: There is NaN or infinity.
    """
    return scaled(as_floats(as_array(embeddings, "embeddings"), "embeddings"), "embeddings")


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> NDArray[Any]:
    """The first coordinates of every vector, a view; they are not scaled to length 1 again.

    Args:
        embeddings: `[dim]` or `[n, dim]`.
        truncate_dim: How many coordinates to keep, at most what there is; None keeps all.

    Raises:
        TypeError: These are no numbers.
        ValueError: `truncate_dim` is less than 1 or more than there is.
    """
    array = as_array(embeddings, "embeddings")
    if truncate_dim is None:
        return array
    if array.ndim == 0 or type(truncate_dim) is not int or not 1 <= truncate_dim <= array.shape[-1]:
        raise ValueError(
            f"truncate_dim: expected 1 to {array.shape[-1] if array.ndim else 0} or None, got {truncate_dim!r}"
        )
    return array[..., :truncate_dim]


def _matrices(a: Any, b: Any) -> tuple[Floats, Floats]:
    """Both sides as `[n, dim]` and `[m, dim]` of one type."""
    a, b = as_matrix(a, "a"), as_matrix(b, "b")
    if not len(a) and not a.shape[1]:
        a = a.reshape(0, b.shape[1])
    if not len(b) and not b.shape[1]:
        b = b.reshape(0, a.shape[1])
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b: vectors of {a.shape[1]} and {b.shape[1]} coordinates cannot be compared")
    return _of_one_type(a, b)


def _pairs(a: Any, b: Any) -> tuple[Floats, Floats]:
    """Both sides as `[n, dim]`, or one or both as `[dim]`, of one type."""
    a, b = as_array(a, "a"), as_array(b, "b")
    fit = {a.ndim, b.ndim} <= {1, 2} and a.shape[-1] == b.shape[-1]
    if not fit or (a.ndim == b.ndim == 2 and len(a) != len(b)):
        raise ValueError(
            f"a and b: expected as many vectors in both, or one on one side, got the shapes {list(a.shape)} and "
            f"{list(b.shape)}; the similarities of all with all are those of the function without 'pairwise'"
        )
    return _of_one_type(a, b)


def _of_one_type(a: NDArray[Any], b: NDArray[Any]) -> tuple[Floats, Floats]:
    return as_floats(a, "a", np.result_type(b.dtype, np.float32)), as_floats(
        b, "b", np.result_type(a.dtype, np.float32)
    )


def _squares(differences: Floats) -> Floats:
    squares: Floats = np.vecdot(differences, differences)
    return squares

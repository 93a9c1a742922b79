"""Similarity functions with the names and definitions of sentence-transformers, in NumPy; larger is more similar.

All take arrays, lists of vectors or tensors. float16 and integers are computed in float32, float64 in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.values import integer, shown
from embedrt.vectors.arrays import Floats, as_array, as_floats, as_matrix, by_pair, scaled

# Elements of a block that stays in the CPU cache while it is compared with every vector of the other side.
_IN_CACHE = 1 << 16
# Rows and columns of the distance matrix that are computed at a time.
_TILE = 1024
# Squared distances below this fraction of the squared norms are computed from differences: |a|² + |b|² - 2ab loses too
# many digits there.
CLOSE = 1e-4


def cos_sim(a: Any, b: Any) -> Floats:
    """Cosine similarities of all vectors of `a` and all vectors of `b`.

    Args:
        a: Vectors `[n, dim]`, or one vector `[dim]`.
        b: Vectors `[m, dim]`, or one vector `[dim]`.

    Returns:
        `[n, m]`; 0 for zero vectors.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: The shapes do not fit, or there is NaN or infinity.

    Example:
        >>> cos_sim([[1, 0], [0, 2]], [1, 1]).round(3).tolist()
        [[0.707], [0.707]]
    """
    a, b = _matrices(a, b)
    cosines: Floats = scaled(a, "a") @ scaled(b, "b").T
    return cosines


def dot_score(a: Any, b: Any) -> Floats:
    """Dot products of all vectors of `a` and all vectors of `b`, `[n, m]`.

    Arguments and errors are those of `cos_sim`.

    Example:
        >>> dot_score([[1, 0], [0, 2]], [1, 1]).tolist()
        [[1.0], [2.0]]
    """
    a, b = _matrices(a, b)
    products: Floats = a @ b.T
    return products


def euclidean_sim(a: Any, b: Any) -> Floats:
    """Negative Euclidean distances of all vectors of `a` and all vectors of `b`, `[n, m]`; accurate near zero too.

    Arguments and errors are those of `cos_sim`.

    Example:
        >>> euclidean_sim([[3, 4]], [0, 0]).tolist()
        [[-5.0]]
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
    """Negative Manhattan distances of all vectors of `a` and all vectors of `b`, `[n, m]`.

    Arguments and errors are those of `cos_sim`.

    Example:
        >>> manhattan_sim([[3, 4]], [0, 0]).tolist()
        [[-7.0]]
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
    """Cosine similarities of corresponding vectors of `a` and `b`.

    Args:
        a: Vectors `[n, dim]`, or one vector `[dim]` to compare with all of `b`.
        b: Vectors `[n, dim]`, or one vector `[dim]` to compare with all of `a`.

    Returns:
        `[n]`, or a single number for two single vectors.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: The shapes do not fit, or there is NaN or infinity.

    Example:
        >>> pairwise_cos_sim([[1, 0], [0, 2]], [[2, 0], [1, 0]]).tolist()
        [1.0, 0.0]
    """
    a, b = _pairs(a, b)
    return np.asarray(np.vecdot(scaled(a, "a"), scaled(b, "b")))


def pairwise_dot_score(a: Any, b: Any) -> Floats:
    """Dot products of corresponding vectors; arguments, result and errors are those of `pairwise_cos_sim`."""
    return np.asarray(np.vecdot(*_pairs(a, b)))


def pairwise_euclidean_sim(a: Any, b: Any) -> Floats:
    """Negative Euclidean distances of corresponding vectors.

    Arguments, result and errors are those of `pairwise_cos_sim`.
    """
    a, b = _pairs(a, b)
    differences = np.subtract(a, b, dtype=np.float64)
    return np.asarray(0 - np.sqrt(_squares(differences)), a.dtype)


def pairwise_manhattan_sim(a: Any, b: Any) -> Floats:
    """Negative Manhattan distances of corresponding vectors.

    Arguments, result and errors are those of `pairwise_cos_sim`.
    """
    a, b = _pairs(a, b)
    return np.asarray(0 - np.abs(a - b).sum(axis=-1))


@dataclass(frozen=True)
class Similarity:
    """A similarity function in both forms.

    Attributes:
        matrix: All vectors with all vectors: `[n, dim]`, `[m, dim]` -> `[n, m]`.
        pairwise: Corresponding vectors: `[n, dim]`, `[n, dim]` -> `[n]`.
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
    """Look up a similarity by name, or by a member of an enum such as `SimilarityFunction`.

    Raises:
        ValueError: The name is unknown.
    """
    key = name.value if isinstance(name, Enum) else name
    if not isinstance(key, str) or key not in SIMILARITIES:
        allowed = ", ".join(map(repr, SIMILARITIES))
        raise ValueError(f"similarity: expected one of {allowed}, got {key!r}")
    return SIMILARITIES[key]


def normalize_embeddings(embeddings: Any) -> Floats:
    """Scale vectors to length 1; zero vectors stay zero.

    Args:
        embeddings: `[dim]` or `[n, dim]`.

    Returns:
        A new array of the same shape, float32 or float64.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: There is NaN or infinity.

    Example:
        >>> normalize_embeddings([0, 4]).tolist()
        [0.0, 1.0]
    """
    return scaled(as_floats(as_array(embeddings, "embeddings"), "embeddings"), "embeddings")


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> NDArray[Any]:
    """Keep the first coordinates of every vector, as a view, without scaling to length 1.

    Args:
        embeddings: `[dim]` or `[n, dim]`.
        truncate_dim: Number of coordinates to keep, 1 to `dim`; None keeps all.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: `truncate_dim` is out of range.

    Example:
        >>> truncate_embeddings([1, 2, 3], 2).tolist()
        [1, 2]
    """
    array = as_array(embeddings, "embeddings")
    if truncate_dim is None:
        return array
    count = integer(truncate_dim)
    if array.ndim == 0 or count is None or not 1 <= count <= array.shape[-1]:
        raise ValueError(
            f"truncate_dim: expected 1 to {array.shape[-1] if array.ndim else 0} or None, got {shown(truncate_dim)}"
        )
    return array[..., :count]


def _matrices(a: Any, b: Any) -> tuple[Floats, Floats]:
    """Both arguments as `[n, dim]` and `[m, dim]` of one dtype."""
    a, b = as_matrix(a, "a"), as_matrix(b, "b")
    if not len(a) and not a.shape[1]:
        a = a.reshape(0, b.shape[1])
    if not len(b) and not b.shape[1]:
        b = b.reshape(0, a.shape[1])
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b: expected vectors of equal width, got {a.shape[1]} and {b.shape[1]} coordinates")
    return _same_dtype(a, b)


def _pairs(a: Any, b: Any) -> tuple[Floats, Floats]:
    """Both arguments as `[n, dim]`, or one or both as `[dim]`, of one dtype."""
    a, b = as_array(a, "a"), as_array(b, "b")
    fit = {a.ndim, b.ndim} <= {1, 2} and a.shape[-1] == b.shape[-1]
    if not fit or (a.ndim == b.ndim == 2 and len(a) != len(b)):
        raise ValueError(
            f"a and b: expected equal numbers of vectors, or one vector on one side, got the shapes {list(a.shape)} "
            f"and {list(b.shape)}; the function without 'pairwise' compares all with all"
        )
    return _same_dtype(a, b)


def _same_dtype(a: NDArray[Any], b: NDArray[Any]) -> tuple[Floats, Floats]:
    return as_floats(a, "a", np.result_type(b.dtype, np.float32)), as_floats(
        b, "b", np.result_type(a.dtype, np.float32)
    )


def _squares(differences: Floats) -> Floats:
    squares: Floats = np.vecdot(differences, differences)
    return squares

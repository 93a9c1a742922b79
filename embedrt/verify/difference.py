"""Differences between two sets of vectors of the same texts, and between their search results."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedrt.types import Vectors

TOP = 10
# Queries whose similarities to all texts are held in memory at a time.
_CHUNK = 512


@dataclass(frozen=True)
class Difference:
    """Differences between two sets of vectors, with one entry per text.

    Each text is also a query against all other texts by cosine similarity, once with each set of vectors.

    Attributes:
        cosine: Cosine similarity of the two vectors, float64 `[texts]`; 1 if both are zero.
        max_abs_error: Max absolute error of a coordinate, float64 `[texts]`.
        norm_error: Absolute difference of the two norms, float64 `[texts]`.
        overlap: Fraction of the top 10 search results in common, in any order, float64 `[texts]`.
        first_changed: True if the first search result differs, bool `[texts]`.
    """

    cosine: NDArray[np.float64]
    max_abs_error: NDArray[np.float64]
    norm_error: NDArray[np.float64]
    overlap: NDArray[np.float64]
    first_changed: NDArray[np.bool_]


def difference(a: Vectors, b: Vectors) -> Difference:
    """Compare two sets of vectors `[texts, dim]` of the same texts.

    Raises:
        ValueError: The shapes differ, or there are fewer than two texts.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"vectors: expected two arrays [texts, dim] of equal shape, got {list(a.shape)} and {list(b.shape)}"
        )
    if len(a) < 2:
        raise ValueError(f"texts: expected at least 2, got {len(a)}")
    units_a, norms_a = _units(a)
    units_b, norms_b = _units(b)
    both_zero = (norms_a == 0) & (norms_b == 0)
    nearest_a, nearest_b = _nearest(units_a), _nearest(units_b)
    common = [len(set(x) & set(y)) for x, y in zip(nearest_a.tolist(), nearest_b.tolist(), strict=True)]
    return Difference(
        cosine=np.where(both_zero, 1.0, (units_a * units_b).sum(axis=1)),
        max_abs_error=np.abs(a.astype(np.float64) - b).max(axis=1),
        norm_error=np.abs(norms_a - norms_b),
        overlap=np.array(common) / nearest_a.shape[1],
        first_changed=nearest_a[:, 0] != nearest_b[:, 0],
    )


def _units(vectors: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale vectors to length 1, and return them with their norms; zero vectors stay zero."""
    exact = vectors.astype(np.float64)
    norms: NDArray[np.float64] = np.linalg.norm(exact, axis=1)
    return exact / np.where(norms == 0, 1, norms)[:, None], norms


def _nearest(units: NDArray[np.float64]) -> NDArray[np.int64]:
    """The top 10 other texts of each text by cosine similarity; ties are in the order of the texts."""
    count = min(TOP, len(units) - 1)
    nearest = np.empty((len(units), count), np.int64)
    for start in range(0, len(units), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(units)))
        scores = units[rows] @ units.T
        scores[np.arange(len(rows)), rows] = -np.inf
        nearest[rows] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return nearest

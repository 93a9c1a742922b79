"""Differences between two sets of vectors of the same texts, and between the search results with them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedrt.types import Vectors

TOP = 10
# Queries whose similarities to all texts are held at a time.
_CHUNK = 512


@dataclass(frozen=True)
class Difference:
    """Differences between two vectors of every text.

    Every text is searched for among the others by cosine similarity, once with each set of vectors.

    Attributes:
        cosine: Cosine similarity of the two vectors of each text, float64 `[texts]`; 1 where both are zero.
        max_abs_error: Largest difference in a coordinate, for each text.
        norm_error: Difference of the two norms, for each text.
        overlap: Share of the first ten search results that are the same in any order, for each text.
        first_changed: True for each text whose first search result is another one.
    """

    cosine: NDArray[np.float64]
    max_abs_error: NDArray[np.float64]
    norm_error: NDArray[np.float64]
    overlap: NDArray[np.float64]
    first_changed: NDArray[np.bool_]


def difference(a: Vectors, b: Vectors) -> Difference:
    """Compare two sets of vectors `[texts, dim]` of the same texts.

    Raises:
        ValueError: Their shapes differ, or there are fewer than two texts.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"vectors of shapes {list(a.shape)} and {list(b.shape)} cannot be compared; they must be equal"
        )
    if len(a) < 2:
        raise ValueError(f"{len(a)} texts: a search needs at least two")
    units_a, norms_a = _units(a)
    units_b, norms_b = _units(b)
    both_zero = (norms_a == 0) & (norms_b == 0)
    found_a, found_b = _nearest(units_a), _nearest(units_b)
    same = [len(set(x) & set(y)) for x, y in zip(found_a.tolist(), found_b.tolist(), strict=True)]
    return Difference(
        cosine=np.where(both_zero, 1.0, (units_a * units_b).sum(axis=1)),
        max_abs_error=np.abs(a.astype(np.float64) - b).max(axis=1),
        norm_error=np.abs(norms_a - norms_b),
        overlap=np.array(same) / found_a.shape[1],
        first_changed=found_a[:, 0] != found_b[:, 0],
    )


def _units(vectors: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The vectors scaled to length 1, and their lengths; zeros stay."""
    exact = vectors.astype(np.float64)
    norms: NDArray[np.float64] = np.linalg.norm(exact, axis=1)
    return exact / np.where(norms == 0, 1, norms)[:, None], norms


def _nearest(units: NDArray[np.float64]) -> NDArray[np.int64]:
    """Per text the others in descending order of cosine, at most ten; the earlier text comes first in a tie."""
    count = min(TOP, len(units) - 1)
    found = np.empty((len(units), count), np.int64)
    for start in range(0, len(units), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(units)))
        scores = units[rows] @ units.T
        scores[np.arange(len(rows)), rows] = -np.inf
        found[rows] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return found

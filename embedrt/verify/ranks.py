"""Order of scores: the agreement of two rankings, and the errors of scores as probabilities."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.types import Vectors


def orders(items: Sequence[Any], logits: Vectors) -> Iterator[NDArray[np.intp]]:
    """Indexes into flat logits, for each order that they give.

    Args:
        items: Pairs of a query and a document.
        logits: float32 `[items, labels]`.

    Yields:
        For one label, the documents of a query, for each query with more than one; for several, the labels of a pair.
    """
    if logits.shape[1] > 1:
        yield from np.arange(logits.size).reshape(logits.shape)
        return
    by_query: dict[str, list[int]] = {}
    for i, (query, _) in enumerate(items):
        by_query.setdefault(query, []).append(i)
    yield from (np.array(rows) for rows in by_query.values() if len(rows) > 1)


def agreement(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Kendall's rank correlation of two rows of scores: 1 for the same order, -1 for the opposite.

    Scores that are equal in `expected` have no order; scores that are equal in `found` alone agree with none.
    """
    first, second = np.triu_indices(len(expected), 1)
    by = np.sign(expected[first] - expected[second])
    ordered = by != 0
    if not ordered.any():
        return 1.0
    return float((by * np.sign(found[first] - found[second]))[ordered].mean())


def probabilities(logits: Vectors) -> NDArray[np.float64]:
    """The sigmoid of one label's logits, or the softmax over several labels: float64 `[items, labels]`."""
    values = logits.astype(np.float64)
    if logits.shape[1] == 1:
        positive: NDArray[np.float64] = np.exp(-np.logaddexp(0, -values))
        return positive
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares

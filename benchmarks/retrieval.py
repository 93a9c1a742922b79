"""Retrieval quality: finding a dictionary's entry by its headword."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIN_WORDS = 5
# Vectors of which no coordinate is further than this from another engine's find the same.
SAME = 1e-5


@dataclass(frozen=True)
class Search:
    """Queries and what they should find.

    Attributes:
        queries: Headwords, each once.
        documents: Entries without the lines of their headwords.
        relevant: For every query, the indices of its entries among the documents.
    """

    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]


def definition(entry: str) -> str:
    """An entry without its headwords: they are the lines up to the first empty one."""
    return entry.partition("\n\n")[2].strip()


def search(entries: list[tuple[str, str]], documents: int, seed: int) -> Search:
    """Draws a search.

    Args:
        entries: Headword and entry, as in the dictionary's index; an entry is there once for each of its headwords.
        documents: How many entries. Those with fewer than five words beside their headwords are left out: they only
            point to others.
        seed: Of the choice.
    """
    pairs = ((word, definition(entry)) for word, entry in entries)
    return drawn([(word, text) for word, text in pairs if len(text.split()) >= _MIN_WORDS], documents, seed)


def drawn(pairs: Sequence[tuple[str, str]], documents: int, seed: int) -> Search:
    """Draws a search.

    Args:
        pairs: Queries, each with a document that it should find.
        documents: How many documents.
        seed: Of the choice.
    """
    queries: dict[str, list[str]] = {}
    for query, text in pairs:
        queries.setdefault(text, []).append(query)
    chosen = random.Random(seed).sample(list(queries), min(documents, len(queries)))
    relevant: dict[str, set[int]] = {}
    for index, text in enumerate(chosen):
        for query in queries[text]:
            relevant.setdefault(query, set()).add(index)
    return Search(list(relevant), chosen, list(relevant.values()))


def ndcg_at_10(
    queries: NDArray[np.float32], documents: NDArray[np.float32], relevant: list[set[int]], block: int = 256
) -> float:
    """Mean normalized discounted cumulative gain of the ten most similar documents, by cosine; 0 to 1.

    Args:
        queries: `[queries, dim]`.
        documents: `[documents, dim]`.
        relevant: The relevant documents of every query, one or more.
        block: Queries at a time, which bounds the memory.
    """
    return float(ndcg(best(queries, documents, 10, block), relevant).mean())


def ndcg(found: NDArray[np.int64], relevant: Sequence[set[int]]) -> NDArray[np.float64]:
    """Normalized discounted cumulative gain of every query; 0 to 1.

    A relevant document at rank r gains `1 / log2(r + 1)`; the sum is divided by that of the best possible ranking
    (Järvelin and Kekäläinen, 2002).

    Args:
        found: Documents by rank, `[queries, ranks]`.
        relevant: The relevant documents of every query, one or more.
    """
    gains = 1 / np.log2(np.arange(2, found.shape[1] + 2))
    shares = []
    for row, expected in zip(found.tolist(), relevant, strict=True):
        gained = sum(gain for index, gain in zip(row, gains, strict=True) if index in expected)
        shares.append(gained / gains[: len(expected)].sum())
    return np.array(shares)


def best(
    queries: NDArray[np.float32], documents: NDArray[np.float32], count: int, block: int = 256
) -> NDArray[np.int64]:
    """Indices of the most similar documents of every query by cosine, best first.

    Where similarities are equal, the order of the documents decides, in every engine alike.
    """
    compared = unit(documents).T
    parts = [queries[start : start + block] @ compared for start in range(0, len(queries), block)]
    return np.concatenate([np.argsort(-part, axis=1, kind="stable")[:, :count] for part in parts])


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1."""
    normalized: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalized

"""Retrieval quality: finding a dictionary's entry by its headword."""

import random
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
    headwords: dict[str, list[str]] = {}
    for word, entry in entries:
        if len((text := definition(entry)).split()) >= _MIN_WORDS:
            headwords.setdefault(text, []).append(word)
    drawn = random.Random(seed).sample(list(headwords), min(documents, len(headwords)))
    relevant: dict[str, set[int]] = {}
    for index, text in enumerate(drawn):
        for word in headwords[text]:
            relevant.setdefault(word, set()).add(index)
    return Search(list(relevant), drawn, list(relevant.values()))


def ndcg_at_10(
    queries: NDArray[np.float32], documents: NDArray[np.float32], relevant: list[set[int]], block: int = 256
) -> float:
    """Mean normalized discounted cumulative gain of the ten most similar documents, by cosine; 0 to 1.

    A relevant document at rank r gains `1 / log2(r + 1)`; the sum is divided by that of the best possible ranking
    (Järvelin and Kekäläinen, 2002).

    Args:
        queries: `[queries, dim]`.
        documents: `[documents, dim]`.
        relevant: The relevant documents of every query, one or more.
        block: Queries at a time, which bounds the memory.
    """
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    gains = 1 / np.log2(np.arange(2, 12))
    total = 0.0
    for start in range(0, len(queries), block):
        some = queries[start : start + block]
        scores = some @ unit.T
        for row, expected in zip(scores, relevant[start : start + block], strict=True):
            # Stable: where scores are equal, the order of the documents decides, in every engine alike.
            best = np.argsort(-row, kind="stable")[:10]
            found = sum(gain for index, gain in zip(best, gains, strict=False) if int(index) in expected)
            total += float(found / gains[: len(expected)].sum())
    return total / len(queries)

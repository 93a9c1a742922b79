"""Hierarchical token pooling: the vectors of a document in clusters, each replaced by its mean, for a smaller index."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.values import integer, shown, truth
from embedrt.vectors.arrays import SMALLEST_NORM, Floats
from embedrt.vectors.maxsim import as_items


@dataclass(frozen=True)
class HierarchicalTokenPooling:
    """Ward clustering of token vectors by cosine distance. Picklable; may be used from many threads at once.

    Attributes:
        pool_factor: Vectors per cluster, on average: about `1 / pool_factor` of the vectors remain. 1 merges nothing.
        num_protected_tokens: Vectors at the start, such as that of [CLS], that stay as they are.
        normalize_embeddings: True to scale the vectors to length 1, after the means.
        tasks: The tasks to whose vectors it applies: "query", "document". A call without a task counts as "document".

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> pooling = HierarchicalTokenPooling(pool_factor=2, num_protected_tokens=0)
        >>> pooling.pool([np.eye(4, 3, dtype=np.float32)])[0].shape
        (2, 3)
    """

    pool_factor: float = 1.0
    num_protected_tokens: int = 1
    normalize_embeddings: bool = True
    tasks: tuple[str, ...] = ("document",)

    def __post_init__(self) -> None:
        factor: Any = self.pool_factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not isfinite(factor) or factor < 1:
            raise ValueError(f"pool_factor: expected a number from 1 on, got {shown(factor)}")
        protected = integer(self.num_protected_tokens)
        if protected is None or protected < 0:
            raise ValueError(
                f"num_protected_tokens: expected an integer from 0 on, got {shown(self.num_protected_tokens)}"
            )
        object.__setattr__(self, "num_protected_tokens", protected)
        object.__setattr__(self, "normalize_embeddings", truth(self.normalize_embeddings, "normalize_embeddings"))
        object.__setattr__(self, "tasks", (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks))

    def applies_to(self, task: str | None) -> bool:
        """Return True if vectors of a task are pooled; None counts as "document"."""
        return (task or "document") in self.tasks

    def pool(self, embeddings: Sequence[Any], *, task: str | None = None) -> list[NDArray[Any]]:
        """Pool the vectors of documents.

        Args:
            embeddings: A list of `[vectors, dim]`, of length 1 each.
            task: The task they were encoded for; if it is not among `tasks`, they stay as they are.

        Returns:
            A list of arrays `[fewer vectors, dim]`.

        Raises:
            TypeError: The vectors are not numeric.
            ValueError: A shape does not fit.
        """
        items = as_items(embeddings, "embeddings")
        return [self.pool_one(item) for item in items] if self.applies_to(task) else items

    def pool_one(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Pool the vectors of one document, `[vectors, dim]`."""
        first = min(self.num_protected_tokens, len(vectors))
        count = len(vectors) - first
        clusters = max(int(count // self.pool_factor), 1)
        if clusters < count:
            floats: Floats = vectors[first:].astype(np.result_type(vectors.dtype, np.float32), copy=False)
            vectors = np.concatenate([vectors[:first], _means(floats, clusters).astype(vectors.dtype, copy=False)])
        return _normalized(vectors) if self.normalize_embeddings else vectors


def _normalized(vectors: NDArray[Any]) -> NDArray[Any]:
    floats: Floats = vectors.astype(np.result_type(vectors.dtype, np.float32), copy=False)
    norms = np.sqrt(np.vecdot(floats, floats))[:, np.newaxis]
    scaled: NDArray[Any] = (floats / np.maximum(norms, SMALLEST_NORM)).astype(vectors.dtype, copy=False)
    return scaled


def _means(vectors: Floats, clusters: int) -> Floats:
    """The means of the clusters, in the order of the dendrogram."""
    floats = vectors.astype(np.float32, copy=False)
    distances = np.clip(1 - floats @ floats.T, 0, 2).astype(np.float64)
    labels = cluster_labels(ward_merges(distances), len(vectors), clusters)
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    means: Floats = np.add.reduceat(vectors[order], starts, axis=0) / counts[:, np.newaxis].astype(vectors.dtype)
    return means


@dataclass(frozen=True, eq=False)
class Merges:
    """A dendrogram: merges of two clusters each, by height.

    Attributes:
        children: The merged clusters, the smaller number first, int64 `[items - 1, 2]`: an item has its own number, the
            cluster of merge `i` has `items + i`.
        heights: The distances of the merged clusters, ascending.
    """

    children: NDArray[np.int64]
    heights: NDArray[np.float64]


def ward_merges(distances: NDArray[np.float64]) -> Merges:
    """Cluster items by Ward's criterion: the merge that adds the least variance comes first.

    Chains of nearest neighbors find the merges in time proportional to the square of the number of items.

    Args:
        distances: The distance of each two items, `[items, items]`, symmetric; it is overwritten.
    """
    count = len(distances)
    pairs, heights = np.empty((count - 1, 2), np.int64), np.empty(count - 1)
    squares = np.multiply(distances, distances, out=distances)
    np.fill_diagonal(squares, np.inf)
    sizes = np.ones(count)
    chain: list[int] = []
    for step in range(count - 1):
        if not chain:
            chain.append(int(np.argmax(sizes > 0)))
        while True:
            last = chain[-1]
            row = squares[last]
            nearest = int(np.argmin(row))
            if len(chain) > 1 and row[chain[-2]] <= row[nearest]:
                break
            chain.append(nearest)
        kept, gone = max(chain[-2:]), min(chain[-2:])
        del chain[-2:]
        height = squares[kept, gone]
        pairs[step], heights[step] = (gone, kept), height
        row = (sizes + sizes[kept]) * squares[kept]  # infinity, the distance of what is gone, stays
        row += (sizes + sizes[gone]) * squares[gone]
        row -= sizes * height
        row /= sizes + (sizes[kept] + sizes[gone])
        row[kept] = row[gone] = np.inf
        squares[kept], squares[:, kept] = row, row
        squares[gone], squares[:, gone] = np.inf, np.inf
        sizes[kept] += sizes[gone]
        sizes[gone] = 0
    order = np.argsort(heights, kind="stable")
    return Merges(_numbered(pairs[order], count), np.sqrt(heights[order]))


def _numbered(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The numbers of the merged clusters, from an item of each."""
    cluster, parents = list(range(count)), list(range(count))
    children = np.empty_like(pairs)

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for step, (left, right) in enumerate(pairs.tolist()):
        left, right = root(left), root(right)  # noqa: PLW2901
        children[step] = sorted((cluster[left], cluster[right]))
        parents[left] = right
        cluster[right] = count + step
    return children


def cluster_labels(merges: Merges, count: int, clusters: int) -> NDArray[np.int64]:
    """Cut a dendrogram into at most so many clusters; merges of equal height stay together.

    Args:
        merges: The dendrogram.
        count: The number of items.
        clusters: The most clusters.

    Returns:
        The cluster of each item, numbered from 0 in the order of the branches: at each merge larger branches come
        before single items, else the smaller number.
    """
    limit = merges.heights[count - clusters - 1] if clusters < count else -np.inf
    labels, found = np.empty(count, np.int64), 0
    todo = [(2 * count - 2, -1)]  # nodes, with the cluster that they belong to
    while todo:
        node, label = todo.pop()
        if label < 0 and (node < count or merges.heights[node - count] <= limit):
            label, found = found, found + 1
        if node < count:
            labels[node] = label
            continue
        left, right = merges.children[node - count].tolist()
        branches = [right, left] if left < count <= right else [left, right]
        todo += [(branch, label) for branch in reversed(branches)]
    return labels

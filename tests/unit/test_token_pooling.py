"""Hierarchical token pooling against Ward's criterion written out, and what is refused."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedrt.vectors.token_pooling import HierarchicalTokenPooling, Merges, cluster_labels, ward_merges


def unit_vectors(count: int, seed: int, dim: int = 8) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def greedy(distances: NDArray[np.float64], clusters: int) -> set[frozenset[int]]:
    """The closest two clusters are merged until so many are left."""
    found = {frozenset([i]): i for i in range(len(distances))}
    between = {(i, j): distances[i, j] for i in range(len(distances)) for j in range(len(distances)) if i != j}
    while len(found) > clusters:
        left, right = min(
            ((a, b) for a in found for b in found if a != b), key=lambda pair: between[found[pair[0]], found[pair[1]]]
        )
        i, j, height = found.pop(left), found.pop(right), 0.0
        height = between[i, j]
        for other, k in found.items():
            n, a, b = len(other), len(left), len(right)
            square = ((n + a) * between[i, k] ** 2 + (n + b) * between[j, k] ** 2 - n * height**2) / (n + a + b)
            between[i, k] = between[k, i] = square**0.5
        found[left | right] = i
    return set(found)


@given(count=st.integers(2, 14), clusters=st.integers(1, 14), seed=st.integers(0, 2**31))
def test_clusters_are_those_of_wards_criterion(count: int, clusters: int, seed: int) -> None:
    vectors = unit_vectors(count, seed).astype(float)
    distances = 1 - vectors @ vectors.T
    labels = cluster_labels(ward_merges(distances.copy()), count, clusters)
    found = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}
    assert found == greedy(distances, clusters)
    assert sorted(set(labels.tolist())) == list(range(len(found)))


def test_merges_of_equal_height_stay_together() -> None:
    merges = Merges(np.array([[0, 1], [2, 3], [4, 5]]), np.array([0.0, 0.0, 1.0]))
    assert cluster_labels(merges, 4, 3).tolist() == [0, 0, 1, 1]
    assert cluster_labels(merges, 4, 4).tolist() == [0, 1, 2, 3]
    assert cluster_labels(merges, 4, 1).tolist() == [0, 0, 0, 0]


def test_branches_come_before_single_items() -> None:
    merges = Merges(np.array([[1, 2], [0, 3]]), np.array([0.5, 1.0]))
    assert cluster_labels(merges, 3, 2).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("factor", "protected", "left"), [(1, 1, 11), (2, 1, 6), (1.5, 0, 7), (3, 2, 5), (100, 1, 2)])
def test_number_of_vectors(factor: float, protected: int, left: int) -> None:
    vectors = unit_vectors(11, 0)
    pooled = HierarchicalTokenPooling(factor, protected).pool([vectors, vectors[:1], vectors[:0]])
    assert [len(item) for item in pooled] == [left, 1, 0]
    np.testing.assert_allclose(np.linalg.norm(pooled[0], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(pooled[0][:protected], vectors[:protected], atol=1e-6)


def test_means_without_normalization() -> None:
    vectors = np.array([[9, 9], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    pooled = HierarchicalTokenPooling(1.5, normalize_embeddings=False).pool_one(vectors)
    np.testing.assert_allclose(pooled, np.array([[9, 9], [0.3, 0.9], [1, 0]]), atol=1e-6)


def test_dtype_is_kept() -> None:
    assert HierarchicalTokenPooling(2).pool([unit_vectors(9, 0).astype(np.float16)])[0].dtype == np.float16


def test_other_tasks_pass() -> None:
    pooling, vectors = HierarchicalTokenPooling(2, tasks=("query",)), [unit_vectors(5, 0)]
    assert len(pooling.pool(vectors)[0]) == 5
    assert len(pooling.pool(vectors, task="query")[0]) == 3
    assert HierarchicalTokenPooling(tasks="query").tasks == ("query",)  # type: ignore[arg-type]


def test_it_is_picklable() -> None:
    pooling = HierarchicalTokenPooling(2)
    assert pickle.loads(pickle.dumps(pooling)) == pooling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool_factor": 0.5}, "pool_factor: expected a number from 1 on, got 0.5"),
        ({"pool_factor": True}, "pool_factor"),
        ({"pool_factor": float("nan")}, "pool_factor"),
        ({"num_protected_tokens": -1}, "num_protected_tokens: expected an integer from 0 on, got -1"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchicalTokenPooling(**arguments)

"""Measures of the benchmark of quality against scipy and scikit-learn."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import scores
from benchmarks.retrieval import best, ndcg

metrics: Any = import_module("sklearn.metrics")
linear_model: Any = import_module("sklearn.linear_model")
RANDOM = np.random.default_rng(0)


def test_spearman_with_ties() -> None:
    values, others = RANDOM.integers(0, 9, 200).astype(np.float64), RANDOM.standard_normal(200)
    assert scores.spearman(values, others) == pytest.approx(stats.spearmanr(values, others).statistic)
    assert scores.ranks(values).tolist() == stats.rankdata(values).tolist()


def test_ndcg() -> None:
    queries, documents = (RANDOM.standard_normal((size, 8)).astype(np.float32) for size in (30, 60))
    relevant = [set(RANDOM.choice(60, 1 + i % 12, replace=False).tolist()) for i in range(30)]
    found = ndcg(best(queries, documents, 10), relevant).mean()
    similarity = queries @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    gains = np.array([[index in expected for index in range(60)] for expected in relevant], np.float64)
    assert found == pytest.approx(metrics.ndcg_score(gains, similarity, k=10))


def test_v_measure() -> None:
    labels, clusters = RANDOM.integers(0, 5, 300), RANDOM.integers(0, 8, 300)
    clusters[:150] = labels[:150]
    assert scores.v_measure(labels, clusters) == pytest.approx(metrics.v_measure_score(labels, clusters))


def test_bitext() -> None:
    first = RANDOM.standard_normal((50, 4)).astype(np.float32)
    second = (first + 0.5 * RANDOM.standard_normal((50, 4))).astype(np.float32)
    nearest = best(first, second, 1)[:, 0]
    expected = metrics.f1_score(np.arange(50), nearest, average="weighted", zero_division=0)
    assert scores.bitext_score(first, second).value == pytest.approx(100 * expected)


@pytest.mark.parametrize("classes", [2, 7])
def test_logistic_regression(classes: int) -> None:
    labels = np.arange(8 * classes) % classes
    vectors = RANDOM.standard_normal((8 * classes, 24)) + 2 * np.eye(24)[labels]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    weights, biases = scores.logistic_regression(vectors, labels)
    # Of two classes, scikit-learn fits the difference of the weights, whose penalty is half as large.
    strength = 2.0 if classes == 2 else 1.0
    reference = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(vectors, labels)
    if classes == 2:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    else:
        biases = biases - biases.mean()
    np.testing.assert_allclose(weights.T, reference.coef_, atol=1e-3)
    np.testing.assert_allclose(biases, reference.intercept_ - reference.intercept_.mean() * (classes > 2), atol=1e-3)


def test_k_means_is_as_good_as_that_of_scikit_learn() -> None:
    labels = np.arange(400) % 8
    vectors = 2 * np.eye(16)[labels] + 0.8 * RANDOM.standard_normal((400, 16))
    make: Any = import_module("sklearn.cluster").KMeans

    def cost(found: Any) -> float:
        centers = np.stack([vectors[found == cluster].mean(axis=0) for cluster in range(8)])
        return float(np.square(vectors - centers[found]).sum())

    own = [cost(scores.k_means(vectors, 8, np.random.default_rng(seed))) for seed in range(20)]
    theirs = [cost(make(8, n_init=10, random_state=seed).fit(vectors).labels_) for seed in range(20)]
    assert np.mean(own) <= 1.05 * np.mean(theirs)

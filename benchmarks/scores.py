"""Measures of quality, as MTEB defines them (Muennighoff et al., 2023), in plain numpy.

A measure has a value in points of 100, and its values on resamples of the items: pairs, queries, texts or repetitions,
drawn with replacement (Efron, 1979). Draws depend on the number of items alone, so that the resamples of two engines
are paired, and the interval of their difference says whether a difference is more than the choice of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval import best, ndcg, unit

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
_RESAMPLES = 2000
_SEED = 0
_INTERVAL = (2.5, 97.5)
# As in MTEB: repetitions with another sample each, texts of each class that a classifier learns from, and texts that
# are clustered at a time.
_REPETITIONS, _LEARNED, _CLUSTERED = 10, 8, 2048
_STEPS, _TOLERANCE = 2000, 1e-5
_STARTS, _ITERATIONS, _GAIN = 10, 100, 1e-4


@dataclass(frozen=True)
class Score:
    """A measure of one engine.

    Attributes:
        value: In points of 100.
        resampled: The same on resamples of the items.
    """

    value: float
    resampled: Floats


@dataclass(frozen=True)
class Difference:
    """The difference of an engine's measure to another engine's.

    Attributes:
        points: Of 100.
        low: Lower end of the interval that holds it in 95 of 100 resamples.
        high: Upper end.
    """

    points: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """True if the interval contains zero: the same items, drawn anew, could show no difference."""
        return self.low <= 0 <= self.high


def difference(own: Score, other: Score) -> Difference:
    """The difference with its paired bootstrap interval (Efron and Tibshirani, 1993, chapter 13)."""
    low, high = np.percentile(own.resampled - other.resampled, _INTERVAL)
    return Difference(own.value - other.value, float(low), float(high))


def draws(items: int) -> NDArray[np.int64]:
    """Indices of resamples, `[resamples, items]`; the same for every engine."""
    return np.random.default_rng(_SEED).integers(0, items, (_RESAMPLES, items))


def mean_score(values: Floats) -> Score:
    """The score of a measure that is a mean over items, each 0 to 1."""
    return Score(100 * float(values.mean()), 100 * np.array([values[drawn].mean() for drawn in draws(len(values))]))


# Similarity


def spearman_score(first: Vectors, second: Vectors, ratings: Sequence[float]) -> Score:
    """Spearman correlation of cosine similarities with ratings: main score of MTEB's STS tasks."""
    similarities = np.einsum("ij,ij->i", unit(first).astype(np.float64), unit(second).astype(np.float64))
    expected = np.array(ratings, np.float64)
    resampled = [spearman(similarities[drawn], expected[drawn]) for drawn in draws(len(expected))]
    return Score(100 * spearman(similarities, expected), 100 * np.array(resampled))


def spearman(values: Floats, others: Floats) -> float:
    """Spearman's rank correlation (1904): Pearson's correlation of the ranks, where equal values share a mean rank.

    0 where all values are equal.
    """
    first, second = ranks(values), ranks(others)
    first, second = first - first.mean(), second - second.mean()
    norms = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norms if norms else 0.0


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Floats = (last - (counts - 1) / 2)[group]
    return mean


# Retrieval


def retrieval_scores(queries: Vectors, documents: Vectors, relevant: Sequence[set[int]]) -> dict[str, Score]:
    """nDCG@10, MRR@10 and recall@100 by cosine similarity: the scores of MTEB's retrieval tasks."""
    found = best(queries, documents, 100)
    return {
        "nDCG@10": mean_score(ndcg(found[:, :10], relevant)),
        "MRR@10": mean_score(reciprocal_ranks(found[:, :10], relevant)),
        "recall@100": mean_score(recalls(found, relevant)),
    }


def reciprocal_ranks(found: NDArray[np.int64], relevant: Sequence[set[int]]) -> Floats:
    """For every query, `1 / rank` of the first relevant document, or 0 if none was found (Voorhees, 1999)."""
    rows = zip(found.tolist(), relevant, strict=True)
    return np.array(
        [next((1 / rank for rank, one in enumerate(row, 1) if one in expected), 0.0) for row, expected in rows]
    )


def recalls(found: NDArray[np.int64], relevant: Sequence[set[int]]) -> Floats:
    """For every query, the share of the relevant documents that was found."""
    rows = zip(found.tolist(), relevant, strict=True)
    return np.array([len(expected.intersection(row)) / len(expected) for row, expected in rows])


# Bitext


def bitext_score(first: Vectors, second: Vectors) -> Score:
    """F1 of finding each text's counterpart as the nearest neighbor: main score of MTEB's bitext mining tasks.

    Text `i` of the first list belongs to text `i` of the second. Each counterpart is a class of one text, so that the
    weighted mean of the F1 of all classes is their mean, and a class has `F1 = 2 / (1 + times it was found)` if its
    text found it, else 0.
    """
    nearest = best(first, second, 1)[:, 0]
    times = np.bincount(nearest, minlength=len(second))
    hits = nearest == np.arange(len(first))
    return mean_score(np.where(hits, 2 / (1 + times[: len(first)]), 0.0))


# Classification


def classification_score(vectors: Vectors, labels: NDArray[np.int64], held_out: NDArray[np.bool_]) -> Score:
    """Accuracy of a logistic regression on a few texts of each class: main score of MTEB's classification tasks.

    The mean over ten samples of eight texts of each class. The items of the resamples are the held-out texts, each with
    the share of samples after which it was classified right.

    Args:
        vectors: Of all texts.
        labels: The class of each.
        held_out: True for texts that are classified; samples are drawn from the others.
    """
    others = np.flatnonzero(~held_out)
    classes = np.unique(labels)
    right = np.zeros(int(held_out.sum()))
    for repetition in range(_REPETITIONS):
        random = np.random.default_rng(_SEED + repetition)
        learned = np.concatenate(
            [random.permutation(others[labels[others] == one])[:_LEARNED] for one in classes.tolist()]
        )
        weights, biases = logistic_regression(vectors[learned], labels[learned])
        predicted = classes[(vectors[held_out] @ weights + biases).argmax(axis=1)]
        right += predicted == labels[held_out]
    return mean_score(right / _REPETITIONS)


def logistic_regression(vectors: Vectors, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Weights `[dim, classes]` and biases of a multinomial logistic regression, classes in the order of their labels.

    It minimizes the sum of the log losses plus half the squared weights, as scikit-learn's `LogisticRegression` does by
    default, by accelerated gradient descent with restarts (Nesterov, 1983; O'Donoghue and Candès, 2015).
    """
    classes, expected = np.unique(labels, return_inverse=True)
    inputs = np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1).astype(np.float64)
    wanted = np.eye(len(classes))[expected]
    decay = np.ones((inputs.shape[1], 1))
    decay[-1] = 0  # the bias
    step = 1 / (0.5 * np.linalg.eigvalsh(inputs @ inputs.T)[-1] + 1)
    weights = np.zeros((inputs.shape[1], len(classes)))
    ahead, momentum = weights, 1.0
    for _ in range(_STEPS):
        gradient = inputs.T @ (softmax(inputs @ ahead) - wanted) + decay * ahead
        if np.abs(gradient).max() < _TOLERANCE:
            break
        after = ahead - step * gradient
        if np.sum(gradient * (after - weights)) > 0:  # it overshoots
            momentum = 1.0
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = after + (momentum - 1) / grown * (after - weights)
        weights, momentum = after, grown
    return ahead[:-1], ahead[-1]


def softmax(logits: Floats) -> Floats:
    """Probabilities by row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


# Clustering


def clustering_score(vectors: Vectors, labels: NDArray[np.int64]) -> Score:
    """V-measure of k-means with as many clusters as classes: main score of MTEB's clustering tasks.

    The mean over ten samples of at most 2,048 texts. The items of the resamples are the samples.
    """
    values = []
    for repetition in range(_REPETITIONS):
        random = np.random.default_rng(_SEED + repetition)
        some = random.permutation(len(vectors))[:_CLUSTERED]
        found = k_means(vectors[some].astype(np.float64), len(np.unique(labels[some])), random)
        values.append(v_measure(labels[some], found))
    return mean_score(np.array(values))


def k_means(vectors: Floats, clusters: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The cluster of every vector, by Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii, 2007).

    Of ten starts the one with the smallest sum of squared distances counts: a single start ends in one of several
    optima, and a change of the last digit of a vector can lead to another one.
    """
    tries = (_lloyd(vectors, _plus_plus(vectors, clusters, random)) for _ in range(_STARTS))
    return min(tries, key=lambda one: one[0])[1]


def _lloyd(vectors: Floats, centers: Floats) -> tuple[float, NDArray[np.int64]]:
    """The sum of squared distances to the centers, and the cluster of every vector."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    before = np.inf
    for _ in range(_ITERATIONS):
        distances = squares[:, None] - 2 * vectors @ centers.T + np.einsum("ij,ij->i", centers, centers)
        assigned: NDArray[np.int64] = distances.argmin(axis=1)
        cost = float(distances[np.arange(len(vectors)), assigned].sum())
        if before - cost <= _GAIN * cost:
            break
        before = cost
        one_hot = assigned[:, None] == np.arange(len(centers))
        counts = one_hot.sum(axis=0)
        filled = counts > 0  # an empty cluster keeps its center
        centers = centers.copy()
        centers[filled] = (one_hot.T.astype(np.float64) @ vectors)[filled] / counts[filled, None]
    return cost, assigned


def _plus_plus(vectors: Floats, clusters: int, random: np.random.Generator) -> Floats:
    chosen = [int(random.integers(len(vectors)))]
    nearest = np.full(len(vectors), np.inf)
    while len(chosen) < clusters:
        nearest = np.minimum(nearest, np.square(vectors - vectors[chosen[-1]]).sum(axis=1))
        drawn = random.uniform() * nearest.sum()
        chosen.append(min(int(np.searchsorted(np.cumsum(nearest), drawn, side="right")), len(vectors) - 1))
    return vectors[chosen]


def v_measure(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> float:
    """Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg, 2007).

    Homogeneity is `1 - H(class | cluster) / H(class)`, completeness `1 - H(cluster | class) / H(cluster)`; each is 1
    where its denominator is 0.
    """
    of_class, of_cluster = np.unique(labels, return_inverse=True)[1], np.unique(clusters, return_inverse=True)[1]
    together = np.zeros((of_class.max() + 1, of_cluster.max() + 1))
    np.add.at(together, (of_class, of_cluster), 1)
    both, classes, found = _entropy(together.ravel()), _entropy(together.sum(axis=1)), _entropy(together.sum(axis=0))
    homogeneity = 1 - (both - found) / classes if classes else 1.0
    completeness = 1 - (both - classes) / found if found else 1.0
    if homogeneity + completeness == 0:
        return 0.0
    return 2 * homogeneity * completeness / (homogeneity + completeness)


def _entropy(counts: Floats) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())

"""The main promise: real all-MiniLM-L6-v2 gives the vectors of sentence-transformers, in every coordinate."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.tasks.graph_values import graph_values_in_one_batch
from tests.kit.bundles import parity

REFERENCE = Path(__file__).parents[1] / "reference"
TOLERANCE = 2e-6

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    read: list[str] = json.loads((REFERENCE / "texts.json").read_bytes())
    return read


@pytest.fixture(scope="module")
def golden() -> Vectors:
    made = json.loads((REFERENCE / "minilm.json").read_bytes())
    content = (REFERENCE / "minilm.npy").read_bytes()
    assert hashlib.sha256(content).hexdigest() == made["vectors_sha256"]
    vectors: Vectors = np.load(REFERENCE / "minilm.npy", allow_pickle=False)
    return vectors


@pytest.fixture(scope="module")
def alone(minilm: Embedder, texts: list[str]) -> Vectors:
    return np.stack([minilm.encode(text) for text in texts])


def test_the_weights_are_the_real_ones(minilm_source: Path) -> None:
    made = json.loads((REFERENCE / "minilm.json").read_bytes())
    assert hashlib.sha256((minilm_source / "model.safetensors").read_bytes()).hexdigest() == made["weights_sha256"]


def test_the_texts_are_many_and_reach_beyond_the_limit(minilm: Embedder, texts: list[str]) -> None:
    lengths = minilm.token_count(texts)
    assert len(texts) >= 300
    assert min(lengths) == 2
    assert lengths.count(256) >= 10
    assert len(set(lengths)) >= 60


def test_vectors_equal_the_reference(minilm: Embedder, texts: list[str], golden: Vectors) -> None:
    vectors = minilm.encode(texts)
    assert vectors.shape == golden.shape
    assert vectors.dtype == np.float32
    assert np.abs(vectors - golden).max() <= TOLERANCE
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() <= TOLERANCE


def test_vectors_of_single_texts_equal_the_reference(alone: Vectors, golden: Vectors) -> None:
    assert np.abs(alone - golden).max() <= TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 3, 32, 1000])
def test_a_vector_does_not_depend_on_its_batch(
    minilm: Embedder, texts: list[str], alone: Vectors, batch_size: int
) -> None:
    assert np.abs(minilm.encode(texts, batch_size=batch_size) - alone).max() <= TOLERANCE


def test_a_vector_does_not_depend_on_padding(minilm: Embedder, texts: list[str], alone: Vectors) -> None:
    some = list(range(0, len(texts), 20))
    longest = int(np.argmax(minilm.token_count(texts)))
    together = graph_values_in_one_batch(minilm.runners["default"], [texts[i] for i in [*some, longest]])
    assert np.abs(together - alone[[*some, longest]]).max() <= TOLERANCE


def test_the_report_in_the_bundle_names_the_golden_vectors(minilm: Embedder) -> None:
    report = parity(minilm.manifest)
    assert report.independent
    assert "sentence-transformers 6.2.0" in report.reference
    assert report.max_abs_error <= TOLERANCE
    assert report.max_batch_error <= TOLERANCE
    assert report.max_tokens == 256

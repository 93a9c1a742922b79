"""Clients that people use, each against a running server: their vectors are those of `Embedder`."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.clients.conftest import CLIENTS, MANY, MODEL, RERANKER, TEXTS, Program, vocabulary
from tests.kit.server import Running, serving

ATOL = 1e-6
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (CLIENTS / "node_modules").is_dir(), reason="needs node and npm"
)


@pytest.fixture(scope="session")
def expected(minilm: Embedder) -> NDArray[np.float32]:
    """The vectors of the texts."""
    return np.asarray(minilm.encode(TEXTS))


@pytest.fixture(scope="session")
def expected_many(minilm: Embedder) -> NDArray[np.float32]:
    """The vectors of many texts."""
    return np.asarray(minilm.encode(MANY))


def assert_vectors(found: Any, expected: NDArray[np.float32]) -> None:
    """The vectors of a client are those of the model."""
    np.testing.assert_allclose(np.array(found, np.float32), expected, rtol=0, atol=ATOL)


def assert_openai(
    result: Any, minilm: Embedder, expected: NDArray[np.float32], expected_many: NDArray[np.float32]
) -> None:
    """Check the results of one of OpenAI's packages."""
    assert_vectors(result["base64"], expected)
    assert np.float32(result["base64"]).tobytes() == np.float32(result["float"]).tobytes()
    # The hosted service has vectors of length 1, also after it has dropped coordinates.
    shorter = minilm.encode(TEXTS, truncate_dim=64, normalize_embeddings=True)
    assert_vectors(result["dimensions"], np.asarray(shorter))
    assert_vectors(result["many"], expected_many)
    assert result["usage"]["prompt_tokens"] == result["usage"]["total_tokens"] > 256
    assert result["models"] == [MODEL, RERANKER]
    assert result["token ids"]["code"] == "token_ids_not_supported"
    assert result["token ids"]["param"] == "input"
    assert "check_embedding_ctx_length=False" in result["token ids"]["message"]


def test_openai(
    program: Program,
    server: Running,
    minilm: Embedder,
    expected: NDArray[np.float32],
    expected_many: NDArray[np.float32],
) -> None:
    result = program("openai_python.py", server, many=MANY)
    assert_openai(result, minilm, expected, expected_many)
    for name in ("one text", "at once", "alias"):
        assert_vectors(result[name], expected)
    assert result["served"] == MODEL
    assert result["bad dimensions"]["param"] == "dimensions"
    assert result["bad dimensions"]["type"] == "invalid_request_error"
    assert result["unknown model"]["code"] == "model_not_found"


@needs_node
def test_openai_for_javascript(
    program: Program,
    server: Running,
    minilm: Embedder,
    expected: NDArray[np.float32],
    expected_many: NDArray[np.float32],
) -> None:
    result = program("openai_node.mjs", server, many=MANY)
    assert_openai(result, minilm, expected, expected_many)
    assert result["token ids"]["status"] == 400


def test_openai_reads_that_a_server_is_full(
    program: Program, minilm_bundle: Path, expected: NDArray[np.float32]
) -> None:
    limits = Limits(waiting_texts=len(TEXTS) - 1)
    with serving(Settings((ModelSettings(MODEL, str(minilm_bundle)),), limits=limits)) as full:
        result = program("openai_overload.py", full)
    assert result["refused"]["code"] == "rate_limit_exceeded"
    assert result["refused"]["type"] == "rate_limit_error"
    assert 1 <= result["refused"]["seconds"] <= 120
    assert_vectors(result["vectors"], expected)


def test_langchain_sends_token_ids_by_default(program: Program, server: Running, expected: NDArray[np.float32]) -> None:
    result = program("langchain_openai_ids.py", server)
    assert result["token ids"]["code"] == "token_ids_not_supported"
    assert "check_embedding_ctx_length=False" in result["token ids"]["message"]
    assert_vectors(result["texts"], expected)
    assert_vectors(result["query"], expected)


@pytest.fixture(scope="module")
def cl100k_server(minilm_bundle: Path) -> Iterator[Running]:
    """A server that decodes token ids of cl100k_base; its only model takes every name."""
    model = ModelSettings(MODEL, str(minilm_bundle), token_ids="cl100k_base")
    with serving(replace(Settings((model,)), cl100k_vocabulary=vocabulary())) as running:
        yield running


def test_langchain_with_its_token_ids_decoded(
    program: Program, cl100k_server: Running, expected: NDArray[np.float32]
) -> None:
    result = program("langchain_openai_ids.py", cl100k_server, model="text-embedding-3-small")
    assert_vectors(result["token ids"], expected)
    assert_vectors(result["texts"], expected)


def test_llama_index(program: Program, server: Running, expected: NDArray[np.float32]) -> None:
    result = program("llama_index_embeddings.py", server)
    assert len(result) == 5
    for vectors in result.values():
        assert_vectors(vectors, expected)


def test_haystack(program: Program, server: Running, expected: NDArray[np.float32]) -> None:
    result = program("haystack_openai.py", server)
    assert_vectors(result["documents"], expected)
    assert_vectors(result["query"], expected)
    assert result["usage"]["total_tokens"] > 256


def test_hugging_face(program: Program, server: Running, expected: NDArray[np.float32]) -> None:
    result = program("hugging_face.py", server)
    assert_vectors(result["one text"], expected)
    assert_vectors(result["list"], expected)
    np.testing.assert_allclose(result["similarity"], expected[1:] @ expected[0], atol=ATOL)


def test_cohere(
    program: Program, server: Running, reranker_bundle: Path, minilm: Embedder, expected: NDArray[np.float32]
) -> None:
    result = program("cohere_v2.py", server, reranker=RERANKER)
    assert_vectors(result["embed"], expected)
    assert result["binary"] == np.asarray(minilm.encode(TEXTS, precision="binary")).tolist()
    assert result["ubinary"] == np.asarray(minilm.encode(TEXTS, precision="ubinary")).tolist()
    ranked = CrossEncoder(reranker_bundle).rank(TEXTS[0], TEXTS[1:])
    order = [hit["corpus_id"] for hit in ranked]
    scores = [hit["score"] for hit in ranked]
    assert [index for index, _ in result["rerank v1"]] == order
    assert result["rerank"] == result["rerank v1"][:3]
    np.testing.assert_allclose([score for _, score in result["rerank v1"]], scores, atol=ATOL)
    assert result["documents v1"] == [TEXTS[1 + index] for index in order]


def test_ollama(program: Program, server: Running, expected: NDArray[np.float32]) -> None:
    result = program("ollama_python.py", server)
    for name in ("embed", "one text", "legacy"):
        assert_vectors(result[name], expected)
    assert {MODEL, RERANKER} >= {name.removesuffix(":latest") for name in result["models"]} >= {MODEL}
    assert result["show"]["details"]["family"]
    assert result["unknown"].startswith("404 ")


def test_chroma(
    program: Program, server: Running, expected: NDArray[np.float32], expected_many: NDArray[np.float32]
) -> None:
    few = 200  # its function for servers waits five seconds for a reply
    result = program("chroma.py", server, many=MANY[:few])
    assert_vectors(result.pop("server many"), expected_many[:few])
    assert len(result) == 4
    for vectors in result.values():
        assert_vectors(vectors, expected)

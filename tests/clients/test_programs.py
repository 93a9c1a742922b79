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
from tests.clients.conftest import (
    CLIENTS,
    MANY,
    MODEL,
    RERANKER,
    Program,
    javascript_version,
    version,
    vocabulary,
)
from tests.kit.clients import TEXTS, TOLERANCE, Record, max_error
from tests.kit.server import Running, serving

# The class and its package by what the program calls the result.
CALLED_BY_LLAMA_INDEX = {
    "openai-like": ("OpenAILikeEmbedding", "llama-index-embeddings-openai-like"),
    "tei": ("TextEmbeddingsInference", "llama-index-embeddings-text-embeddings-inference"),
}
CALLED_BY_CHROMA = {
    "server": "HuggingFaceEmbeddingServer",
    "openai": "OpenAIEmbeddingFunction",
    "ollama": "OllamaEmbeddingFunction",
}
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


def assert_openai(
    result: Any,
    name: str,
    found_version: str,
    record: Record,
    minilm: Embedder,
    expected: NDArray[np.float32],
    expected_many: NDArray[np.float32],
) -> None:
    """Check the results of one of OpenAI's packages."""
    record(name, found_version, "embeddings.create", max_error(result["base64"], expected))
    assert np.float32(result["base64"]).tobytes() == np.float32(result["float"]).tobytes()
    # The hosted service has vectors of length 1, also after it has dropped coordinates.
    shorter = minilm.encode(TEXTS, truncate_dim=64, normalize_embeddings=True)
    record(name, found_version, "embeddings.create, dimensions", max_error(result["dimensions"], shorter))
    record(name, found_version, "embeddings.create, 2,048 texts", max_error(result["many"], expected_many))
    assert result["usage"]["prompt_tokens"] == result["usage"]["total_tokens"] > 256
    assert result["models"] == [MODEL, RERANKER]
    assert result["token ids"]["code"] == "token_ids_not_supported"
    assert result["token ids"]["param"] == "input"
    assert "check_embedding_ctx_length=False" in result["token ids"]["message"]


def test_openai(
    program: Program,
    server: Running,
    record: Record,
    minilm: Embedder,
    expected: NDArray[np.float32],
    expected_many: NDArray[np.float32],
) -> None:
    result = program("openai_python.py", server, many=MANY)
    client = ("OpenAI for Python", version("openai"))
    assert_openai(result, *client, record, minilm, expected, expected_many)
    for name in ("one text", "at once", "alias"):
        record(*client, "embeddings.create", max_error(result[name], expected))
    assert result["served"] == MODEL
    assert result["bad dimensions"]["param"] == "dimensions"
    assert result["bad dimensions"]["type"] == "invalid_request_error"
    assert result["unknown model"]["code"] == "model_not_found"


@needs_node
def test_openai_for_javascript(
    program: Program,
    server: Running,
    record: Record,
    minilm: Embedder,
    expected: NDArray[np.float32],
    expected_many: NDArray[np.float32],
) -> None:
    result = program("openai_node.mjs", server, many=MANY)
    client = ("OpenAI for JavaScript", javascript_version("openai"))
    assert_openai(result, *client, record, minilm, expected, expected_many)
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
    assert max_error(result["vectors"], expected) <= TOLERANCE


def test_langchain_sends_token_ids_by_default(
    program: Program, server: Running, record: Record, expected: NDArray[np.float32]
) -> None:
    result = program("langchain_openai_ids.py", server)
    assert result["token ids"]["code"] == "token_ids_not_supported"
    assert "check_embedding_ctx_length=False" in result["token ids"]["message"]
    client = ("LangChain", version("langchain-openai"))
    record(*client, "OpenAIEmbeddings.embed_documents", max_error(result["texts"], expected))
    record(*client, "OpenAIEmbeddings.embed_query", max_error(result["query"], expected))


@pytest.fixture(scope="module")
def cl100k_server(minilm_bundle: Path) -> Iterator[Running]:
    """A server that decodes token ids of cl100k_base; its only model takes every name."""
    model = ModelSettings(MODEL, str(minilm_bundle), token_ids="cl100k_base")
    with serving(replace(Settings((model,)), cl100k_vocabulary=vocabulary())) as running:
        yield running


def test_langchain_with_its_token_ids_decoded(
    program: Program, cl100k_server: Running, record: Record, expected: NDArray[np.float32]
) -> None:
    result = program("langchain_openai_ids.py", cl100k_server, model="text-embedding-3-small")
    client = ("LangChain", version("langchain-openai"))
    record(*client, "OpenAIEmbeddings, token ids", max_error(result["token ids"], expected))
    record(*client, "OpenAIEmbeddings.embed_documents", max_error(result["texts"], expected))


def test_llama_index(program: Program, server: Running, record: Record, expected: NDArray[np.float32]) -> None:
    result = program("llama_index_embeddings.py", server)
    assert len(result) == 5
    for name, vectors in result.items():
        called, package = CALLED_BY_LLAMA_INDEX[name.split()[0]]
        record("LlamaIndex", version(package), called, max_error(vectors, expected))


def test_haystack(program: Program, server: Running, record: Record, expected: NDArray[np.float32]) -> None:
    result = program("haystack_openai.py", server)
    client = ("Haystack", version("haystack-ai"))
    record(*client, "OpenAIDocumentEmbedder", max_error(result["documents"], expected))
    record(*client, "OpenAITextEmbedder", max_error(result["query"], expected))
    assert result["usage"]["total_tokens"] > 256


def test_hugging_face(program: Program, server: Running, record: Record, expected: NDArray[np.float32]) -> None:
    result = program("hugging_face.py", server)
    client = ("huggingface_hub", version("huggingface-hub"))
    record(*client, "InferenceClient.feature_extraction", max_error(result["one text"], expected))
    record(*client, "InferenceClient.feature_extraction", max_error(result["list"], expected))
    similarity = expected[1:] @ expected[0]
    record(*client, "InferenceClient.sentence_similarity", max_error(result["similarity"], similarity))


def test_cohere(
    program: Program,
    server: Running,
    record: Record,
    reranker_bundle: Path,
    minilm: Embedder,
    expected: NDArray[np.float32],
) -> None:
    result = program("cohere_v2.py", server, reranker=RERANKER)
    client = ("Cohere", version("cohere"))
    record(*client, "ClientV2.embed", max_error(result["embed"], expected))
    assert result["binary"] == np.asarray(minilm.encode(TEXTS, precision="binary")).tolist()
    assert result["ubinary"] == np.asarray(minilm.encode(TEXTS, precision="ubinary")).tolist()
    ranked = CrossEncoder(reranker_bundle).rank(TEXTS[0], TEXTS[1:])
    order = [hit["corpus_id"] for hit in ranked]
    scores = [hit["score"] for hit in ranked]
    assert [index for index, _ in result["rerank v1"]] == order
    assert result["rerank"] == result["rerank v1"][:3]
    record(*client, "ClientV2.rerank", max_error([score for _, score in result["rerank"]], scores[:3]))
    record(*client, "Client.rerank", max_error([score for _, score in result["rerank v1"]], scores))
    assert result["documents v1"] == [TEXTS[1 + index] for index in order]


def test_ollama(program: Program, server: Running, record: Record, expected: NDArray[np.float32]) -> None:
    result = program("ollama_python.py", server)
    client = ("Ollama", version("ollama"))
    for name, called in {"embed": "embed", "one text": "embed", "legacy": "embeddings"}.items():
        record(*client, f"Client.{called}", max_error(result[name], expected))
    assert {MODEL, RERANKER} >= {name.removesuffix(":latest") for name in result["models"]} >= {MODEL}
    assert result["show"]["details"]["family"]
    assert result["unknown"].startswith("404 ")


def test_chroma(
    program: Program,
    server: Running,
    record: Record,
    expected: NDArray[np.float32],
    expected_many: NDArray[np.float32],
) -> None:
    few = 200  # its function for servers waits five seconds for a reply
    result = program("chroma.py", server, many=MANY[:few])
    client = ("Chroma", version("chromadb-client"))
    record(*client, "HuggingFaceEmbeddingServer", max_error(result.pop("server many"), expected_many[:few]))
    assert len(result) == 4
    for name, vectors in result.items():
        record(*client, CALLED_BY_CHROMA[name.split()[0]], max_error(vectors, expected))

"""Requests of applications that are no packages: their order and their fields, as their sources have them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedrt import CrossEncoder, Embedder
from embedrt.server.settings import ModelSettings, Settings
from tests.clients.conftest import MODEL, RERANKER
from tests.kit.clients import TEXTS
from tests.kit.server import Running, serving

ATOL = 1e-6


def test_dify_with_its_provider_for_tei(server: Running, minilm: Embedder) -> None:
    info = server.get("/info", authorization="").json
    assert "embedding" in info["model_type"]
    assert info["max_input_length"] == 256
    assert info["max_client_batch_size"] >= 2048
    tokens = server.post("/tokenize", {"inputs": TEXTS}, authorization="").json
    assert [len(one) for one in tokens][:2] == [11, 8]
    answer = server.post("/v1/embeddings", {"input": TEXTS}, authorization="")
    vectors = [one["embedding"] for one in answer.json["data"]]
    np.testing.assert_allclose(vectors, np.asarray(minilm.encode(TEXTS)), atol=ATOL)


@pytest.fixture(scope="module")
def reranker_server(reranker_bundle: Path) -> Iterator[Running]:
    """A server with a cross-encoder alone."""
    with serving(Settings((ModelSettings(RERANKER, str(reranker_bundle)),))) as running:
        yield running


def test_dify_with_a_reranker_of_tei(reranker_server: Running, reranker_bundle: Path) -> None:
    assert "reranker" in reranker_server.get("/info").json["model_type"]
    body = {"query": TEXTS[1], "texts": TEXTS, "return_text": True}
    ranked = CrossEncoder(reranker_bundle).rank(TEXTS[1], TEXTS)
    found = reranker_server.post("/rerank", body).json
    assert [(one["index"], one["text"]) for one in found] == [
        (hit["corpus_id"], TEXTS[hit["corpus_id"]]) for hit in ranked
    ]
    np.testing.assert_allclose([one["score"] for one in found], [hit["score"] for hit in ranked], atol=ATOL)


def test_dify_with_its_provider_for_openai(server: Running, minilm: Embedder) -> None:
    body = {"model": MODEL, "input": TEXTS, "encoding_format": "float"}
    answer = server.post("/v1/embeddings", body, authorization="")
    vectors = [one["embedding"] for one in answer.json["data"]]
    np.testing.assert_allclose(vectors, np.asarray(minilm.encode(TEXTS)), atol=ATOL)
    assert {"prompt_tokens", "total_tokens"} <= set(answer.json["usage"])
    found = server.post("/rerank", {"model": RERANKER, "query": TEXTS[1], "documents": TEXTS, "top_n": 2}).json
    assert {"index", "relevance_score"} <= set(found["results"][0])
    assert len(found["results"]) == 2


def test_open_webui(server: Running, minilm: Embedder, reranker_bundle: Path) -> None:
    # Its setting for prefixes names a field, which no server knows; the key is empty.
    body = {"input": TEXTS, "model": MODEL, "prefix": "query: "}
    answer = server.post("/v1/embeddings", body, authorization="Bearer ")
    vectors = [one["embedding"] for one in answer.json["data"]]
    np.testing.assert_allclose(vectors, np.asarray(minilm.encode(TEXTS)), atol=ATOL)
    ranking = {"model": RERANKER, "query": TEXTS[1], "documents": TEXTS, "top_n": len(TEXTS)}
    results = server.post("/v1/rerank", ranking).json["results"]
    scores = CrossEncoder(reranker_bundle).predict([(TEXTS[1], text) for text in TEXTS])
    for one in results:
        assert one["relevance_score"] == pytest.approx(float(scores[one["index"]]), abs=ATOL)
    assert len(results) == len(TEXTS)
    ollama = server.post("/api/embed", {"input": TEXTS, "model": MODEL, "truncate": True}).json
    np.testing.assert_allclose(ollama["embeddings"], np.asarray(minilm.encode(TEXTS)), atol=ATOL)


def test_weaviate_with_its_module_for_containers(server: Running, minilm: Embedder) -> None:
    assert server.get("/.well-known/ready").status == 204
    assert server.get("/.well-known/live").status == 204
    assert isinstance(server.get("/meta").json, dict)
    config = {"pooling_strategy": "masked_mean", "task_type": "passage"}
    one = server.post("/vectors", {"text": TEXTS[0], "dims": 0, "vector": None, "error": "", "config": config}).json
    assert one["text"] == TEXTS[0]
    assert one["dim"] == len(one["vector"]) == 384
    np.testing.assert_allclose(one["vector"], np.asarray(minilm.encode(TEXTS[0])), atol=ATOL)
    several = server.post("/vectors", {"texts": TEXTS, "config": config}).json
    np.testing.assert_allclose(several["vectors"], np.asarray(minilm.encode(TEXTS)), atol=ATOL)


def test_weaviate_with_its_module_for_openai(server: Running, minilm: Embedder) -> None:
    body = {"input": TEXTS, "model": MODEL}
    answer = server.request("POST", "/v1/embeddings", json.dumps(body).encode(), {"api-key": "none"})
    vectors = [one["embedding"] for one in answer.json["data"]]
    np.testing.assert_allclose(vectors, np.asarray(minilm.encode(TEXTS)), atol=ATOL)


def test_weaviate_with_its_module_for_rerankers(server: Running, reranker_bundle: Path) -> None:
    found = server.post("/rerank", {"query": TEXTS[1], "documents": TEXTS, "property": ""}).json
    scores = CrossEncoder(reranker_bundle).predict([(TEXTS[1], text) for text in TEXTS])
    assert [one["document"] for one in found["scores"]] == TEXTS
    np.testing.assert_allclose([one["score"] for one in found["scores"]], scores, atol=ATOL)
    assert not found["error"]


def test_mteb_with_its_wrapper_for_openai(server: Running, minilm: Embedder) -> None:
    model = server.get("/v1/models").json["data"][0]
    assert model["max_model_len"] == 256
    body = {
        "model": model["id"],
        "input": TEXTS,
        "encoding_format": "float",
        "truncate_prompt_tokens": model["max_model_len"],
    }
    vectors = [one["embedding"] for one in server.post("/v1/embeddings", body).json["data"]]
    np.testing.assert_allclose(vectors, np.asarray(minilm.encode(TEXTS)), atol=ATOL)


def test_elasticsearch_and_librechat_post_to_the_url_that_they_are_given(server: Running, minilm: Embedder) -> None:
    for path in ("/", "/embed"):
        found = server.post(path, {"inputs": TEXTS}).json
        np.testing.assert_allclose(found, np.asarray(minilm.encode(TEXTS)), atol=ATOL)

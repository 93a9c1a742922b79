"""Ollama's API against a running server."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.server.settings import ModelSettings, Settings
from tests.kit.server import Running, serving

TEXTS = ["the cat", "", "a river bank", "猫 dog"]
DETAILS = {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}


def test_the_keys_of_a_reply(served: Running, tiny: Embedder) -> None:
    body = {"model": "tiny", "input": TEXTS, "options": {"num_ctx": 8192}, "keep_alive": "5m"}
    content = served.post("/api/embed", body).json
    assert set(content) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert content["model"] == "tiny"
    assert content["prompt_eval_count"] == sum(tiny.token_count(TEXTS))
    assert content["total_duration"] > 0
    assert content["load_duration"] == 0
    np.testing.assert_allclose(content["embeddings"], tiny.encode(TEXTS), atol=1e-6)


def test_one_text(served: Running, tiny: Embedder) -> None:
    content = served.post("/api/embed", {"model": "tiny:latest", "input": "the cat"}).json
    assert content["model"] == "tiny:latest"
    assert np.float32(content["embeddings"]).tobytes() == tiny.encode(["the cat"]).tobytes()


def test_vectors_have_length_1(served: Running, bundles: dict[str, Path]) -> None:
    with Embedder(bundles["prompted"]) as model:
        wanted = model.encode_query(TEXTS, normalize_embeddings=True, truncate_dim=8)
    content = served.post("/api/embed", {"model": "prompted:query", "input": TEXTS, "dimensions": 8}).json
    np.testing.assert_allclose(content["embeddings"], wanted, atol=1e-6)


@pytest.mark.parametrize("nothing", [{}, {"input": ""}, {"input": []}, {"input": None}])
def test_nothing_gives_no_vectors(served: Running, nothing: dict[str, Any]) -> None:
    """As Ollama answers; clients load a model this way."""
    answer = served.post("/api/embed", {"model": "tiny", **nothing})
    assert (answer.status, answer.json["embeddings"], answer.json["prompt_eval_count"]) == (200, [], 0)


def test_the_older_route(served: Running, tiny: Embedder) -> None:
    content = served.post("/api/embeddings", {"model": "tiny", "prompt": "the cat"}).json
    assert set(content) == {"embedding"}
    assert np.float32(content["embedding"]).tobytes() == tiny.encode("the cat").tobytes()
    assert served.post("/api/embeddings", {"model": "tiny", "prompt": ""}).json == {"embedding": []}


def test_tags(served: Running, bundles: dict[str, Path]) -> None:
    models = served.get("/api/tags").json["models"]
    assert [one["name"] for one in models] == [*bundles]
    for one in models:
        assert set(one) == {"name", "model", "modified_at", "size", "digest", "details"}
        assert one["model"] == one["name"]
        assert one["size"] > 0
        assert len(one["digest"]) == 64
        assert datetime.fromisoformat(one["modified_at"]).tzinfo is not None
        assert set(one["details"]) == DETAILS
    assert (models[0]["details"]["family"], models[0]["details"]["quantization_level"]) == ("bert", "float32")


def test_version(served: Running) -> None:
    version = served.get("/api/version").json
    assert set(version) == {"version"}
    assert [int(part) for part in version["version"].split(".")] >= [0, 6, 0]  # /api/embed with dimensions


@pytest.mark.parametrize("name", ["model", "name"])
def test_show(served: Running, name: str) -> None:
    content = served.post("/api/show", {name: "tiny:latest", "verbose": False}).json
    keys = {"modelfile", "parameters", "template", "details", "model_info", "capabilities", "modified_at"}
    assert set(content) == keys
    assert set(content["details"]) == DETAILS
    assert content["capabilities"] == ["embedding"]
    assert content["model_info"] == {
        "general.architecture": "bert",
        "general.basename": "tiny",
        "bert.context_length": 48,
        "bert.embedding_length": 32,
    }
    assert served.post("/api/show", {name: "sigmoid"}).json["capabilities"] == []


def test_truncation(served: Running) -> None:
    body = {"model": "tiny", "input": ["a", "dog " * 100]}
    answer = served.post("/api/embed", body)
    assert (answer.status, answer.headers["x-embedrt-truncated"]) == (200, "1")
    answer = served.post("/api/embed", {**body, "truncate": False})
    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert answer.json["error"].startswith("input[1]: expected at most 48 tokens, got 102")


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/api/embed", {"input": 7}, "input: expected str or array or null, got int"),
        ("/api/embed", {"input": ["a", 7]}, "input[1]: expected str, got int"),
        ("/api/embed", {"input": "a", "truncate": "no"}, "truncate: expected bool or null, got str"),
        ("/api/embed", {"input": "a", "dimensions": 0}, "dimensions: expected 1 to 32, got 0"),
        ("/api/embed", {"model": "sigmoid", "input": "a"}, "the model 'sigmoid' is of the task 'score'"),
        ("/api/embeddings", {"prompt": ["a"]}, "prompt: expected str or null, got array"),
    ],
)
def test_wrong_fields(served: Running, path: str, fields: dict[str, Any], message: str) -> None:
    answer = served.post(path, {"model": "tiny", **fields})
    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert answer.json["error"].startswith(message)


def test_one_model_answers_to_every_name(tiny_bundle: Path) -> None:
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),), threads=1)) as running:
        answer = running.post("/api/embed", {"model": "nomic-embed-text:latest", "input": "a"})
        assert (answer.status, answer.json["model"]) == (200, "tiny")
        assert answer.headers["x-embedrt-model"] == "tiny"


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/api/show"])
def test_an_unknown_model(served: Running, path: str) -> None:
    answer = served.post(path, {"model": "nomic-embed-text:latest", "input": "a", "prompt": "a"})
    assert (answer.status, set(answer.json)) == (404, {"error"})
    assert "'nomic-embed-text' does not exist" in answer.json["error"]

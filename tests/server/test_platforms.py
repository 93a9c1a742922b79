"""Routes that platforms and Weaviate call, against a running server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.kit.server import Running, serving

TEXTS = ["A cat sat.", "", "Ein Hund läuft.", "猫"]
PAIR = {"source_sentence": "one", "sentences": ["two", "one"]}
RANKING = {"query": "one cat", "texts": ["one dog", "one cat"]}


@pytest.fixture(scope="module")
def vertex(bundles: dict[str, Path]) -> Iterator[Running]:
    """A server with routes that Vertex AI chooses, and a model with prompts."""
    settings = Settings(
        (ModelSettings("prompted", str(bundles["prompted"])), ModelSettings("sigmoid", str(bundles["sigmoid"]))),
        limits=Limits(request_texts=8),
        predict_route="/v1/endpoints/7:predict",
        health_route="/v1/endpoints/7/health",
    )
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def prompted(bundles: dict[str, Path]) -> Iterator[Embedder]:
    """Its model."""
    with Embedder(bundles["prompted"]) as model:
        yield model


class TestByTask:
    """`POST /` and `POST /invocations` do what the body is for, or else the task of the model."""

    @pytest.mark.parametrize("path", ["/", "/invocations"])
    @pytest.mark.parametrize(
        ("body", "route"),
        [
            ({"inputs": TEXTS, "normalize": False, "dimensions": 7}, "/embed"),
            ({"inputs": "one"}, "/embed"),
            ({"inputs": PAIR, "parameters": {}}, "/similarity"),
            ({"inputs": TEXTS, "model": "sparse"}, "/embed_sparse"),
            ({"inputs": TEXTS, "model": "late"}, "/embed_all"),
            ({"inputs": ["a", "b"], "model": "three"}, "/predict"),
            ({**RANKING, "return_text": True}, "/rerank"),
        ],
    )
    def test_the_same_as_its_route(self, served: Running, path: str, body: Any, route: str) -> None:
        found, expected = served.post(path, body), served.post(route, body)
        assert found.status == 200
        assert found.json == expected.json

    def test_documents_are_ranked_as_cohere_does(self, served: Running) -> None:
        body = {"query": "one cat", "documents": ["one dog", "one cat"], "model": "sigmoid"}
        assert served.post("/", body).json["results"] == served.post("/v2/rerank", body).json["results"]

    @pytest.mark.parametrize(
        ("body", "status", "message"),
        [
            ({}, 422, "object missing required field inputs"),
            ({"inputs": []}, 400, "`inputs` cannot be empty"),
            ({"inputs": {"source_sentence": 1, "sentences": []}}, 422, "inputs.source_sentence: expected str, got int"),
            ({"inputs": "one", "normalize": 1}, 422, "normalize: expected bool or null, got int"),
            (b"[", 400, "the body is no valid JSON: Input data was truncated"),
            ([], 422, "expected object, got array"),
        ],
    )
    def test_errors(self, served: Running, body: Any, status: int, message: str) -> None:
        answer = served.post("/", body)
        assert (answer.status, answer.json["error"]) == (status, message)


class TestVertex:
    @pytest.mark.parametrize("path", ["/vertex", "/v1/endpoints/7:predict"])
    def test_every_instance_has_a_prediction(self, vertex: Running, path: str) -> None:
        instances = [{"inputs": "one"}, RANKING, {"inputs": PAIR}, {"inputs": TEXTS, "prompt_name": "query"}]
        answer = vertex.post(path, {"instances": instances, "parameters": {}})
        routes = ["/embed", "/rerank", "/similarity", "/embed"]
        assert answer.json == {
            "predictions": [vertex.post(route, one).json for route, one in zip(routes, instances, strict=True)]
        }

    @pytest.mark.parametrize(
        ("instances", "status", "message"),
        [
            ([], 400, "`instances` cannot be empty"),
            ([{"inputs": "one"}] * 9, 422, "batch size 9 > maximum allowed batch size 8"),
            ([{"inputs": "one"}, {"inputs": 1}], 422, "instances[1].inputs: expected str or array, got int"),
            ([{"inputs": "one"}, {"inputs": []}], 400, "instances[1]: `inputs` cannot be empty"),
            (
                [{"inputs": "one"}, {"inputs": "cat " * 60, "truncate": False}],
                422,
                "instances[1]: inputs[0]: expected at most 48 tokens, got 62; shorten the text, or let it be truncated",
            ),
            (
                [{"inputs": "one"}, {"inputs": "one", "prompt_name": "x"}],
                422,
                "instances[1]: prompt_name: expected one ",
            ),
        ],
    )
    def test_errors(self, vertex: Running, instances: Any, status: int, message: str) -> None:
        answer = vertex.post("/vertex", {"instances": instances})
        assert answer.status == status
        assert answer.json["error"].startswith(message)

    def test_health(self, vertex: Running) -> None:
        assert vertex.get("/v1/endpoints/7/health").status == 200


class TestWeaviate:
    @pytest.mark.parametrize("path", ["/vectors", "/vectors/"])
    @pytest.mark.parametrize(("task", "prompt"), [("query", "query"), ("passage", "document"), (None, "document")])
    def test_one_text(self, vertex: Running, prompted: Embedder, path: str, task: str | None, prompt: str) -> None:
        config = {"pooling_strategy": "masked_mean", "task_type": task, "dimensions": None}
        answer = vertex.post(path, {"text": "one", "config": config, "other": 1})
        content = answer.json
        assert set(content) == {"text", "vector", "dim", "dims", "error"}
        expected = prompted.encode("one", prompt, normalize_embeddings=True)
        np.testing.assert_allclose(content.pop("vector"), expected, atol=1e-6)
        assert content == {"text": "one", "dim": 32, "dims": 32, "error": None}

    def test_several_texts(self, vertex: Running, prompted: Embedder) -> None:
        answer = vertex.post("/vectors", {"texts": TEXTS, "config": {"dimensions": 5, "task_type": "query"}})
        expected = prompted.encode(TEXTS, "query", truncate_dim=5, normalize_embeddings=True)
        np.testing.assert_allclose(answer.json["vectors"], expected, atol=1e-6)
        assert (answer.json["dim"], answer.json["dims"]) == (5, 5)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "text: expected one of text and texts, got neither"),
            ({"text": "a", "texts": ["b"]}, "text: expected one of text and texts, got both"),
            ({"text": 1}, "text: expected str or null, got int"),
            ({"text": "a", "config": {"task_type": "poem"}}, "config.task_type: expected 'query', 'document' or the "),
            ({"text": "a", "config": {"dimensions": 100}}, "dimensions: expected "),
        ],
    )
    def test_errors(self, vertex: Running, body: Any, message: str) -> None:
        answer = vertex.post("/vectors", body)
        assert answer.status == 400
        assert set(answer.json) == {"error"}
        assert answer.json["error"].startswith(message)

    def test_meta(self, vertex: Running, prompted: Embedder) -> None:
        assert vertex.get("/meta").json == {
            "model": {
                "model_name": "prompted",
                "model_type": "bert",
                "max_tokens": prompted.max_seq_length,
                "dtype": "float32",
            },
            "model_path": "prompted",
        }

    @pytest.mark.parametrize("name", ["live", "ready"])
    def test_probes(self, vertex: Running, name: str) -> None:
        answer = vertex.get(f"/.well-known/{name}")
        assert (answer.status, answer.body) == (204, b"")
        vertex.state.ready = False
        try:
            assert vertex.get(f"/.well-known/{name}").status == (204 if name == "live" else 503)
            assert vertex.get("/health").status == 503
        finally:
            vertex.state.ready = True

"""vLLM's routes for scores and for vectors of tokens, against a running server."""

from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import CrossEncoder, Embedder, MultiVectorEncoder
from tests.kit.server import Running

TEXTS = ["the cat", "", "a river bank", "猫 dog"]
FIRST = ["dog", "the river", "money", "one"]


def scores_of(answer: Any) -> list[float]:
    assert answer.status == 200, answer.body
    assert set(answer.json) == {"id", "object", "created", "model", "data", "usage"}
    assert [(set(one), one["index"], one["object"]) for one in answer.json["data"]] == [
        ({"index", "object", "score"}, i, "score") for i in range(len(answer.json["data"]))
    ]
    assert answer.json["usage"]["prompt_tokens"] == answer.json["usage"]["total_tokens"] > 0
    return [one["score"] for one in answer.json["data"]]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
def test_scores(served: Running, bundles: dict[str, Path], path: str, names: tuple[str, str]) -> None:
    first, second = names
    with CrossEncoder(bundles["sigmoid"]) as model:
        one_with_all = model.predict([("dog", text) for text in TEXTS])
        each_with_one = model.predict([*zip(FIRST, TEXTS, strict=True)])
        raw = model.predict([("dog", "the cat")], activation_fn="Identity")
    body = {"model": "sigmoid"}
    np.testing.assert_allclose(
        scores_of(served.post(path, {**body, first: "dog", second: TEXTS})), one_with_all, atol=1e-6
    )
    got = scores_of(served.post(path, {**body, first: FIRST, second: TEXTS}))
    np.testing.assert_allclose(got, each_with_one, atol=1e-6)
    np.testing.assert_allclose(
        scores_of(served.post(path, {**body, first: "dog", second: "the cat", "use_activation": False})), raw, atol=1e-6
    )


def test_scores_of_a_model_that_embeds(served: Running, bundles: dict[str, Path]) -> None:
    with Embedder(bundles["prompted"]) as model:
        wanted = model.similarity(model.encode_query(["dog"]), model.encode_document(TEXTS))[0]
    got = scores_of(served.post("/score", {"model": "prompted", "text_1": "dog", "text_2": TEXTS}))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"text_2": "a"}, "text_1: expected a text or several texts, got nothing", "text_1"),
        ({"text_1": "a"}, "text_2: expected a text or several texts, got nothing", "text_2"),
        ({"text_1": "a", "documents": []}, "documents: expected at least one text, got an empty list", "documents"),
        ({"text_1": ["a", "b"], "text_2": ["a"]}, "text_1: expected 1 text or as many as text_2, 1, got 2", "text_1"),
        ({"text_1": "a", "text_2": ["a", 7]}, "text_2[1]: expected str, got int", "text_2"),
        ({"text_1": "a", "text_2": "b", "model": "three"}, "the model 'three' has 3 labels", "model"),
        ({"text_1": "a", "text_2": "b", "model": "sparse"}, "the model 'sparse' is of the task 'sparse'", "model"),
    ],
)
def test_wrong_scores(served: Running, fields: dict[str, Any], message: str, param: str) -> None:
    answer = served.post("/score", fields)
    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert answer.json["error"]["message"].startswith(message)
    assert answer.json["error"]["param"] == param


def pooled(answer: Any) -> list[Any]:
    assert answer.status == 200, answer.body
    assert set(answer.json) == {"id", "object", "created", "model", "data", "usage"}
    assert [(one["index"], one["object"]) for one in answer.json["data"]] == [
        (i, "pooling") for i in range(len(answer.json["data"]))
    ]
    return [one["data"] for one in answer.json["data"]]


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_of_tokens(served: Running, bundles: dict[str, Path], role: str) -> None:
    with MultiVectorEncoder(bundles["late"]) as model:
        wanted = getattr(model, f"encode_{role}")(TEXTS, convert_to_numpy=True)
    for fields in ({"model": f"late:{role}"}, {"model": "late", "input_type": role, "task": "token_embed"}):
        got = pooled(served.post("/pooling", {"input": TEXTS, **fields}))
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(np.float32(one).reshape(-1, 8), other, atol=1e-6)
    got = pooled(served.post("/pooling", {"input": TEXTS[0], "model": f"late:{role}", "encoding_format": "base64"}))
    np.testing.assert_allclose(np.frombuffer(b64decode(got[0]), "<f4").reshape(-1, 8), wanted[0], atol=1e-6)


def test_a_model_of_sentences(served: Running, tiny: Embedder) -> None:
    got = pooled(served.post("/pooling", {"input": TEXTS, "model": "tiny"}))
    np.testing.assert_allclose(got, tiny.encode(TEXTS), atol=1e-6)
    got = pooled(served.post("/pooling", {"input": TEXTS, "model": "tiny", "task": "token_embed"}))
    for one, other in zip(got, tiny.encode(TEXTS, output_value="token_embeddings"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "object missing required field input"),
        ({"input": []}, "`input` cannot be empty"),
        ({"input": ["a", None]}, "input[1]: expected str, got null"),
        ({"input": "a", "task": "classify"}, "task: expected 'embed' or 'token_embed', got 'classify'"),
        ({"input": "a", "model": "sparse"}, "the model 'sparse' is of the task 'sparse'"),
        ({"input": "a", "model": "late", "task": "embed"}, "the model 'late' is of the task 'multi-vector'"),
    ],
)
def test_wrong_pooling(served: Running, fields: dict[str, Any], message: str) -> None:
    answer = served.post("/pooling", {"model": "tiny", **fields})
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith(message)


def test_a_model_with_all_outputs(served: Running, bundles: dict[str, Path]) -> None:
    """BGE-M3 embeds sentences, and on request tokens."""
    with Embedder(bundles["all"]) as model, MultiVectorEncoder(bundles["all"]) as late:
        sentences, tokens = model.encode(TEXTS), late.encode(TEXTS, convert_to_numpy=True)
    np.testing.assert_allclose(pooled(served.post("/pooling", {"input": TEXTS, "model": "all"})), sentences, atol=1e-6)
    data = served.post("/v1/embeddings", {"input": TEXTS, "model": "all"}).json["data"]
    np.testing.assert_allclose([one["embedding"] for one in data], sentences, atol=1e-6)
    got = pooled(served.post("/pooling", {"input": TEXTS, "model": "all", "task": "token_embed"}))
    for one, other in zip(got, tokens, strict=True):
        np.testing.assert_allclose(np.float32(one).reshape(other.shape), other, atol=1e-6)
    assert served.post("/embed_sparse", {"inputs": TEXTS, "model": "all"}).status == 200

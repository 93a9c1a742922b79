"""Reranking against a running server: three APIs on one path, told apart by the keys of the body."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import CrossEncoder
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.kit.server import Running, serving

QUERY = "the cat is on the river"
DOCUMENTS = ["the dog", "a river bank", "", "the dog", "one two three", "the cat is on the river", "猫", "money"]
PATHS = ["/rerank", "/v1/rerank", "/v2/rerank", "/openai/v1/rerank"]


@pytest.fixture(scope="module")
def models(bundles: dict[str, Path]) -> Iterator[dict[str, CrossEncoder]]:
    """The models behind the server."""
    found = {name: CrossEncoder(bundles[name]) for name in ("sigmoid", "identity", "three")}
    yield found
    for model in found.values():
        model.close()


def order_of(answer: Any) -> list[int]:
    return [one["index"] for one in answer.json["results"]]


@pytest.mark.parametrize("path", PATHS)
def test_the_keys_of_a_reply_to_cohere(served: Running, path: str) -> None:
    body = {"model": "sigmoid", "query": QUERY, "documents": DOCUMENTS, "top_n": 2, "max_tokens_per_doc": 4096}
    answer = served.post(path, body, **{"x-request-id": "mine"})
    assert answer.status == 200
    content = answer.json
    assert set(content) == {"id", "model", "results", "usage", "meta"}
    assert (content["id"], content["model"]) == ("mine", "sigmoid")
    assert [set(one) for one in content["results"]] == [{"index", "relevance_score"}] * 2
    assert set(content["usage"]) == {"prompt_tokens", "total_tokens"}
    assert content["usage"]["total_tokens"] > 0
    assert content["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    assert answer.headers["x-embedrt-model"] == "sigmoid"


@pytest.mark.parametrize("name", ["sigmoid", "identity"])
@pytest.mark.parametrize("top_n", [None, 0, 1, 3, len(DOCUMENTS), 100])
def test_the_order_and_the_scores_are_those_of_rank(
    served: Running, models: dict[str, CrossEncoder], name: str, top_n: int | None
) -> None:
    wanted = models[name].rank(QUERY, DOCUMENTS, top_k=top_n or None)
    answer = served.post("/rerank", {"model": name, "query": QUERY, "documents": DOCUMENTS, "top_n": top_n})
    assert order_of(answer) == [one["corpus_id"] for one in wanted]
    scores = [one["relevance_score"] for one in answer.json["results"]]
    np.testing.assert_allclose(scores, [one["score"] for one in wanted], atol=1e-6)


def test_equal_scores_keep_the_order_given(served: Running) -> None:
    answer = served.post("/rerank", {"model": "sigmoid", "query": QUERY, "documents": ["the dog"] * 50})
    assert order_of(answer) == [*range(50)]


def test_documents_are_returned_if_asked_for(served: Running) -> None:
    body = {"model": "sigmoid", "query": QUERY, "documents": DOCUMENTS, "return_documents": True}
    for one in served.post("/v1/rerank", body).json["results"]:
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}


def test_documents_may_be_objects(served: Running) -> None:
    body = {"model": "sigmoid", "query": QUERY, "documents": DOCUMENTS}
    mixed = [{"text": text, "id": i} if i % 2 else text for i, text in enumerate(DOCUMENTS)]
    plain = served.post("/rerank", body).json["results"]
    assert served.post("/rerank", {**body, "documents": mixed, "rank_fields": ["text"]}).json["results"] == plain
    assert served.post("/rerank", {**body, "query": {"text": QUERY}}).json["results"] == plain


def test_the_model_that_scores_pairs_needs_no_name(served: Running) -> None:
    answer = served.post("/rerank", {"query": QUERY, "documents": DOCUMENTS})
    assert answer.json["model"] == "sigmoid"


# TEI.


def test_the_reply_to_tei(served: Running, models: dict[str, CrossEncoder]) -> None:
    answer = served.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    assert answer.status == 200
    assert [set(one) for one in answer.json] == [{"index", "score"}] * len(DOCUMENTS)
    wanted = models["sigmoid"].rank(QUERY, DOCUMENTS)
    assert [one["index"] for one in answer.json] == [one["corpus_id"] for one in wanted]
    np.testing.assert_allclose([one["score"] for one in answer.json], [one["score"] for one in wanted], atol=1e-6)
    assert {"x-compute-time", "x-total-time", "x-compute-tokens"} <= set(answer.headers)


def test_raw_scores_and_texts_of_tei(served: Running, models: dict[str, CrossEncoder]) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True, "truncate": True}
    answer = served.post("/rerank", body)
    wanted = models["sigmoid"].rank(QUERY, DOCUMENTS, activation_fn="Identity")
    assert [one["index"] for one in answer.json] == [one["corpus_id"] for one in wanted]
    assert [one["text"] for one in answer.json] == [DOCUMENTS[one["corpus_id"]] for one in wanted]
    np.testing.assert_allclose([one["score"] for one in answer.json], [one["score"] for one in wanted], atol=1e-6)


def test_tei_has_a_sigmoid_whatever_the_model_has(bundles: dict[str, Path], models: dict[str, CrossEncoder]) -> None:
    with serving(Settings((ModelSettings("identity", str(bundles["identity"])),), threads=1)) as running:
        answer = running.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    wanted = models["identity"].rank(QUERY, DOCUMENTS, activation_fn="Sigmoid")
    assert [one["index"] for one in answer.json] == [one["corpus_id"] for one in wanted]
    np.testing.assert_allclose([one["score"] for one in answer.json], [one["score"] for one in wanted], atol=1e-6)


# Weaviate.


def test_the_reply_to_weaviate(served: Running, models: dict[str, CrossEncoder]) -> None:
    answer = served.post("/rerank", {"query": QUERY, "documents": DOCUMENTS, "property": ""})
    assert set(answer.json) == {"query", "scores", "error"}
    assert (answer.json["query"], answer.json["error"]) == (QUERY, None)
    assert [one["document"] for one in answer.json["scores"]] == DOCUMENTS
    wanted = models["sigmoid"].predict([(QUERY, document) for document in DOCUMENTS])
    np.testing.assert_allclose([one["score"] for one in answer.json["scores"]], wanted, atol=1e-6)


# Errors, in the shape of the API that was called.

SHAPES: list[tuple[dict[str, Any], set[str], int]] = [
    ({"documents": DOCUMENTS}, {"message", "detail"}, 400),
    ({"documents": DOCUMENTS, "property": ""}, {"error"}, 400),
    ({"texts": DOCUMENTS}, {"error", "error_type"}, 422),
]


@pytest.mark.parametrize(("body", "keys", "status"), SHAPES)
def test_the_shape_of_errors(served: Running, body: dict[str, Any], keys: set[str], status: int) -> None:
    for query in ({}, {"query": 7}, {"query": None}):
        answer = served.post("/rerank", {**query, **body})
        assert (answer.status, set(answer.json)) == (status, keys)
        assert all("query" in text or text == "Validation" for text in answer.json.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"documents": None}, "documents: expected array, got null"),
        ({"documents": "a"}, "documents: expected array, got str"),
        ({"documents": ["a", 7]}, "documents[1]: expected str or object, got int"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1]: object missing required field text"),
        ({"documents": ["a", {"text": None}]}, "documents[1].text: expected str, got null"),
        ({"documents": []}, "`documents` cannot be empty"),
        ({}, "object missing required field documents"),
        ({"documents": ["a"], "top_n": -1}, "top_n: expected 0 or more, got -1"),
        ({"documents": ["a"], "top_n": "2"}, "top_n: expected int or null, got str"),
        ({"documents": ["a"], "rank_fields": ["title"]}, "rank_fields: expected ['text']"),
        ({"documents": ["a"], "model": "tiny"}, "the model 'tiny' is of the task 'embed'"),
        ({"documents": ["a"], "model": "three"}, "the model 'three' has 3 labels, and ranking needs one"),
    ],
)
def test_wrong_fields(served: Running, fields: dict[str, Any], message: str) -> None:
    answer = served.post("/v2/rerank", {"query": QUERY, **fields})
    assert answer.status == 400
    assert answer.json["message"].startswith(message)
    assert answer.json["detail"] == answer.json["message"]


@pytest.mark.parametrize(
    ("texts", "status", "message", "kind"),
    [
        ([], 400, "`texts` cannot be empty", "Empty"),
        (None, 422, "texts: expected array, got null", "Validation"),
        (["a", 7], 422, "texts[1]: expected str, got int", "Validation"),
    ],
)
def test_wrong_texts_of_tei(served: Running, texts: Any, status: int, message: str, kind: str) -> None:
    answer = served.post("/rerank", {"query": QUERY, "texts": texts})
    assert (answer.status, answer.json) == (status, {"error": message, "error_type": kind})


def test_an_unknown_model(served: Running) -> None:
    answer = served.post("/rerank", {"query": QUERY, "documents": ["a"], "model": "rerank-v3.5"})
    assert (answer.status, set(answer.json)) == (404, {"message", "detail"})
    assert "'rerank-v3.5' does not exist" in answer.json["message"]


def test_truncation_can_be_an_error(served: Running) -> None:
    documents = ["a", "dog " * 100]
    body = {"query": QUERY, "documents": documents, "model": "sigmoid"}
    answer = served.post("/rerank", body)
    assert (answer.headers["x-embedrt-truncated"], answer.headers["x-embedrt-truncated-indexes"]) == ("1", "1")
    answer = served.post("/rerank", {**body, "truncate": False})
    assert answer.status == 400
    assert answer.json["message"].startswith("documents[1]: expected at most 48 tokens, got 109")
    answer = served.post("/rerank", {"query": QUERY, "texts": documents, "truncate": False})
    assert (answer.status, answer.json["error_type"]) == (422, "Validation")
    assert answer.json["error"].endswith("must have less than 48 tokens. Given: 109 (texts[1])")


def test_too_many_documents(bundles: dict[str, Path]) -> None:
    one = ModelSettings("sigmoid", str(bundles["sigmoid"]))
    with serving(Settings((one,), threads=1, limits=Limits(request_texts=3))) as running:
        assert running.post("/rerank", {"query": "a", "documents": ["a"] * 3}).status == 200
        assert running.post("/rerank", {"query": "a", "documents": ["a"] * 4}).status == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nonsense", b"\xff\xfe", b"[" * 10**5, b'{"texts":'])
def test_bodies_that_are_no_json_objects(served: Running, body: bytes) -> None:
    answer = served.post("/rerank", body)
    assert (answer.status, set(answer.json)) == (400, {"message", "detail"})

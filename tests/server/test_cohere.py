"""Cohere's API for embeddings against a running server."""

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from tests.kit.server import Running

TEXTS = ["the cat", "", "a river bank", "猫 dog"]


@pytest.fixture(scope="module")
def prompted(bundles: dict[str, Path]) -> Iterator[Embedder]:
    """A model with prompts and ranges, whose vectors have other lengths than 1."""
    with Embedder(bundles["prompted"]) as model:
        yield model


def test_the_keys_of_a_reply(served: Running, prompted: Embedder) -> None:
    body = {"model": "prompted", "texts": TEXTS, "input_type": "search_document", "embedding_types": ["float"]}
    answer = served.post("/v2/embed", body, **{"x-request-id": "mine"})
    content = answer.json
    assert set(content) == {"id", "embeddings", "texts", "meta"}
    assert (content["id"], content["texts"]) == ("mine", TEXTS)
    assert set(content["embeddings"]) == {"float"}
    tokens = sum(prompted.token_count([f"dog {text}" for text in TEXTS]))
    assert content["meta"] == {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}}
    wanted = prompted.encode_document(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(content["embeddings"]["float"], wanted, atol=1e-6)


def test_floats_are_the_default(served: Running) -> None:
    assert set(served.post("/v2/embed", {"texts": ["a"]}).json["embeddings"]) == {"float"}


def test_all_formats_at_once(served: Running, prompted: Embedder) -> None:
    formats = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"model": "prompted", "texts": TEXTS, "input_type": "search_query", "embedding_types": formats}
    found = served.post("/v2/embed", body).json["embeddings"]
    assert [*found] == formats
    wanted = prompted.encode_query(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(found["float"], wanted, atol=1e-6)
    for text, floats in zip(found["base64"], found["float"], strict=True):
        assert b64decode(text) == np.float32(floats).tobytes()
    encode: Any = prompted.encode_query
    for precision in ("int8", "uint8", "binary", "ubinary"):
        np.testing.assert_array_equal(found[precision], encode(TEXTS, precision=precision))


def test_bytes_need_ranges(served: Running) -> None:
    answer = served.post("/v2/embed", {"model": "tiny", "texts": ["a"], "embedding_types": ["float", "int8"]})
    assert (answer.status, set(answer.json)) == (400, {"message"})
    assert answer.json["message"].startswith("embedding_types: 'int8' needs the range of each coordinate")
    assert "`embedrt ranges`" in answer.json["message"]


def test_output_dimension(served: Running, prompted: Embedder) -> None:
    body = {"model": "prompted", "texts": TEXTS, "output_dimension": 8, "embedding_types": ["float", "int8", "binary"]}
    found = served.post("/v2/embed", body).json["embeddings"]
    wanted = prompted.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(found["float"], wanted, atol=1e-6)
    np.testing.assert_array_equal(found["int8"], prompted.encode(TEXTS, truncate_dim=8, precision="int8"))
    np.testing.assert_array_equal(found["binary"], prompted.encode(TEXTS, truncate_dim=8, precision="binary"))


def test_inputs_with_content(served: Running) -> None:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    plain = served.post("/v2/embed", {"texts": TEXTS}).json
    found = served.post("/v2/embed", {"inputs": inputs}).json
    assert found["texts"] == TEXTS
    assert found["embeddings"] == plain["embeddings"]


def test_version_1(served: Running, prompted: Embedder) -> None:
    answer = served.post("/v1/embed", {"model": "prompted", "texts": TEXTS, "input_type": "clustering"}).json
    assert set(answer) == {"id", "embeddings", "texts", "meta", "response_type"}
    assert answer["response_type"] == "embeddings_floats"
    assert answer["meta"]["api_version"] == {"version": "1"}
    wanted = prompted.encode(TEXTS, prompt_name="clustering", normalize_embeddings=True)
    np.testing.assert_allclose(answer["embeddings"], wanted, atol=1e-6)
    answer = served.post("/v1/embed", {"model": "prompted", "texts": TEXTS, "embedding_types": ["binary"]}).json
    assert answer["response_type"] == "embeddings_by_type"
    assert [*answer["embeddings"]] == ["binary"]


def test_truncation(served: Running) -> None:
    texts = ["a", "dog " * 100]
    for truncate in (None, "END"):
        answer = served.post("/v2/embed", {"texts": texts, "truncate": truncate})
        assert (answer.status, answer.headers["x-embedrt-truncated"]) == (200, "1")
    left = served.post("/v2/embed", {"texts": ["the " * 100 + "dog " * 46], "truncate": "START"}).json["embeddings"]
    plain = served.post("/v2/embed", {"texts": ["dog " * 46]}).json["embeddings"]
    np.testing.assert_allclose(left["float"], plain["float"], atol=1e-6)
    answer = served.post("/v2/embed", {"texts": texts, "truncate": "NONE"})
    assert (answer.status, set(answer.json)) == (400, {"message"})
    assert answer.json["message"].startswith("texts[1]: expected at most 48 tokens, got 102")


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "texts: expected a list of texts, got nothing"),
        ({"texts": []}, "`texts` cannot be empty"),
        ({"texts": "a"}, "texts: expected array or null, got str"),
        ({"texts": ["a", 7]}, "texts[1]: expected str, got int"),
        ({"texts": ["a"], "input_type": "image"}, "input_type: expected 'query', 'document' or the name of a prompt"),
        (
            {"texts": ["a"], "embedding_types": ["float", "int4"]},
            "embedding_types[1]: expected 'float', 'base64', 'int8', ",
        ),
        ({"texts": ["a"], "output_dimension": 99}, "output_dimension: expected 1 to 32, got 99"),
        ({"texts": ["a"], "truncate": "MIDDLE"}, "truncate: expected 'NONE', 'START' or 'END', got 'MIDDLE'"),
        ({"images": ["data:"]}, "images: expected texts; the model reads no images"),
        ({"inputs": [{"content": []}]}, "inputs[0]: expected one content of the type 'text'"),
        (
            {"inputs": [{"content": [{"type": "text", "text": "a"}]}, {"content": [{"type": "image_url"}]}]},
            "inputs[1]: expected one content of the type 'text'",
        ),
        ({"inputs": [{}]}, "inputs[0]: object missing required field content"),
        ({"texts": ["a"], "model": "sigmoid"}, "the model 'sigmoid' is of the task 'score'"),
    ],
)
def test_wrong_fields(served: Running, path: str, fields: dict[str, Any], message: str) -> None:
    answer = served.post(path, fields)
    assert (answer.status, set(answer.json)) == (400, {"message"})
    assert answer.json["message"].startswith(message)


def test_an_unknown_model(served: Running) -> None:
    answer = served.post("/v2/embed", {"texts": ["a"], "model": "embed-v4.0"})
    assert (answer.status, set(answer.json)) == (404, {"message"})

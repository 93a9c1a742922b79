"""OpenAI's API against a running server."""

import base64
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.server.opening import Queues, open_models
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.kit.server import Answer, Running, serving

TEXTS = ["A cat sat.", "", "Ein Hund läuft.", "word " * 300, "猫"] * 20


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server with one small model."""
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),))) as running:
        yield running


@pytest.fixture(scope="module")
def prompted(bundles: dict[str, Path]) -> Iterator[Embedder]:
    """A model with prompts, whose vectors have other lengths than 1."""
    with Embedder(bundles["prompted"]) as model:
        yield model


def test_base64_is_bit_for_bit_what_encode_returns(server: Running, tiny: Embedder) -> None:
    answer = server.post("/v1/embeddings", {"input": TEXTS, "model": "tiny", "encoding_format": "base64"})
    assert answer.status == 200
    data = answer.json["data"]
    assert [one["index"] for one in data] == [*range(len(TEXTS))]
    got = np.array([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])
    np.testing.assert_allclose(got, tiny.encode(TEXTS), atol=1e-6)


def test_floats_give_the_same_vectors(server: Running) -> None:
    bodies = [{"input": TEXTS, "encoding_format": kind} for kind in ("float", "base64")]
    floats, texts = (server.post("/v1/embeddings", body).json["data"] for body in bodies)
    for one, other in zip(floats, texts, strict=True):
        assert np.float32(one["embedding"]).tobytes() == base64.b64decode(other["embedding"])


def embed(server: Running, texts: str | list[Any], **fields: Any) -> NDArray[np.float32]:
    """The vectors of a request, which has to be answered."""
    answer = server.post("/v1/embeddings", {"input": texts, **fields})
    assert answer.status == 200, answer.body
    return np.array([one["embedding"] for one in answer.json["data"]], np.float32)


def error(answer: Answer, status: int = 400) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json) == {"error"}
    content: dict[str, Any] = answer.json["error"]
    assert set(content) == {"message", "type", "param", "code"}
    assert isinstance(content["message"], str)
    assert isinstance(content["type"], str)
    assert isinstance(content["param"], str | None)
    assert isinstance(content["code"], str | None)
    return content


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/openai/v1/embeddings"])
def test_the_keys_of_a_reply(server: Running, tiny: Embedder, path: str) -> None:
    answer = server.post(path, {"input": ["the cat", "dog"], "model": "tiny", "user": "me", "unknown": {"a": [1]}})
    content = answer.json
    assert set(content) == {"object", "data", "model", "usage"}
    assert (content["object"], content["model"]) == ("list", "tiny")
    assert [set(one) for one in content["data"]] == [{"object", "index", "embedding"}] * 2
    assert [(one["object"], one["index"]) for one in content["data"]] == [("embedding", 0), ("embedding", 1)]
    tokens = sum(tiny.token_count(["the cat", "dog"]))
    assert content["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer.headers["x-embedrt-model"] == "tiny"
    assert "x-request-id" in answer.headers


def test_a_text_is_a_list_of_one(server: Running, tiny: Embedder) -> None:
    assert embed(server, "the cat").tobytes() == tiny.encode(["the cat"]).tobytes()
    assert embed(server, ["the cat"]).tobytes() == tiny.encode(["the cat"]).tobytes()
    assert embed(server, [{"text": "the cat"}]).tobytes() == tiny.encode(["the cat"]).tobytes()


def test_fields_that_are_null_are_absent(server: Running) -> None:
    names = ["model", "encoding_format", "dimensions", "user", "input_type", "task", "prompt_name", "embedding_type"]
    names += ["normalized", "late_chunking", "truncate", "truncate_prompt_tokens", "add_special_tokens", "messages"]
    nothing: dict[str, Any] = dict.fromkeys(names)
    assert embed(server, "the cat", **nothing).tobytes() == embed(server, "the cat").tobytes()


def test_dimensions(server: Running, tiny: Embedder) -> None:
    wanted = tiny.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(embed(server, TEXTS, dimensions=8), wanted, atol=1e-6)
    plain = tiny.encode(TEXTS, truncate_dim=8)
    np.testing.assert_allclose(embed(server, TEXTS, dimensions=8, normalized=False), plain, atol=1e-6)
    for wrong in (0, -1, 33):
        failure = error(server.post("/v1/embeddings", {"input": "a", "dimensions": wrong}))
        assert failure["param"] == "dimensions"
        assert f"got {wrong}" in failure["message"]


def test_vectors_have_length_1_unless_the_client_wants_them_as_they_are(served: Running, prompted: Embedder) -> None:
    texts = ["the cat", "a river"]
    wanted = prompted.encode(texts, normalize_embeddings=True)
    assert embed(served, texts, model="prompted").tobytes() == wanted.tobytes()
    raw = prompted.encode(texts)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1)
    for name in ("normalized", "normalize", "use_activation"):
        assert embed(served, texts, model="prompted", **{name: False}).tobytes() == raw.tobytes()
        assert embed(served, texts, model="prompted", **{name: True}).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_as_jina_has_them(served: Running, prompted: Embedder, precision: str) -> None:
    answer = served.post("/v1/embeddings", {"input": TEXTS, "model": "prompted", "embedding_type": precision})
    got = np.array([one["embedding"] for one in answer.json["data"]])
    wanted = prompted.encode(TEXTS, precision=precision)  # type: ignore[call-overload]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("fields", "method", "arguments"),
    [
        ({}, "encode", {}),
        ({"input_type": "query"}, "encode_query", {}),
        ({"input_type": "search_query"}, "encode_query", {}),
        ({"task": "retrieval.query"}, "encode_query", {}),
        ({"input_type": "passage"}, "encode_document", {}),
        ({"task": "retrieval.passage"}, "encode_document", {}),
        ({"input_type": "clustering"}, "encode", {"prompt_name": "clustering"}),
        ({"input_type": "classification"}, "encode", {}),
        ({"prompt_name": "clustering"}, "encode", {"prompt_name": "clustering"}),
        ({"model": "prompted:query"}, "encode_query", {}),
        ({"model": "prompted:document"}, "encode_document", {}),
        ({"model": "prompted:query", "input_type": "document"}, "encode_document", {}),
        ({"model": "prompted:query", "prompt_name": "clustering"}, "encode_query", {"prompt_name": "clustering"}),
    ],
)
def test_prompts(
    served: Running, prompted: Embedder, fields: dict[str, Any], method: str, arguments: dict[str, Any]
) -> None:
    texts = ["the cat", "a river"]
    wanted = getattr(prompted, method)(texts, normalize_embeddings=True, **arguments)
    got = embed(served, texts, **{"model": "prompted", **fields})
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_first_model_that_embeds_answers_a_request_without_a_model(served: Running) -> None:
    answer = served.post("/v1/embeddings", {"input": "a"})
    assert answer.json["model"] == "tiny"


def test_unknown_models(tiny_bundle: Path, served: Running, caplog: pytest.LogCaptureFixture) -> None:
    """One model answers to every name, and says which it is; of several, none does."""
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),), threads=1)) as server:
        for _ in range(3):
            answer = server.post("/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"})
            assert answer.json["model"] == answer.headers["x-embedrt-model"] == "tiny"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("'tiny' answers requests for 'text-embedding-3-small'")
    failure = error(served.post("/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"}), 404)
    assert (failure["code"], failure["param"]) == ("model_not_found", "model")


def test_the_path_of_azure(served: Running) -> None:
    answer = served.post("/openai/deployments/prompted/embeddings?api-version=2024-10-21", {"input": "a"})
    assert answer.json["model"] == "prompted"
    path = "/openai/deployments/prompted:query/embeddings"
    got = served.post(path, {"input": "a", "model": "tiny"}).json["data"]
    assert got == served.post("/v1/embeddings", {"input": "a", "model": "prompted:query"}).json["data"]
    assert error(served.post("/openai/deployments/x/embeddings", {"input": "a"}), 404)["code"] == "model_not_found"


def test_strict_names(tiny_bundle: Path) -> None:
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),), strict_model=True)) as running:
        assert error(running.post("/v1/embeddings", {"input": "a", "model": "x"}), 404)["code"] == "model_not_found"
        for name in ({}, {"model": None}, {"model": ""}, {"model": "tiny"}, {"model": "tiny:query"}):
            assert running.post("/v1/embeddings", {"input": "a", **name}).status == 200


def test_settings_of_a_model(bundles: dict[str, Path], prompted: Embedder) -> None:
    """Another name, fewer coordinates, and a prompt for requests that name none."""
    one = ModelSettings(
        "mine", str(bundles["prompted"]), aliases=("text-embedding-3-small",), truncate_dim=8, default_prompt="dog "
    )
    with serving(Settings((one,), threads=1, strict_model=True)) as running:
        wanted = prompted.encode(TEXTS, prompt="dog ", truncate_dim=8, normalize_embeddings=True)
        answer = running.post("/v1/embeddings", {"input": TEXTS, "model": "text-embedding-3-small"})
        assert answer.json["model"] == "mine"
        got = np.array([item["embedding"] for item in answer.json["data"]])
        np.testing.assert_allclose(got, wanted, atol=1e-6)
        wanted = prompted.encode_query(TEXTS, truncate_dim=8, normalize_embeddings=True)
        np.testing.assert_allclose(embed(running, TEXTS, model="text-embedding-3-small:query"), wanted, atol=1e-6)
        answer = running.post("/v2/embed", {"texts": TEXTS, "input_type": "search_query", "embedding_types": ["int8"]})
        plain: Any = prompted.encode_query(TEXTS, truncate_dim=8, precision="int8")
        np.testing.assert_array_equal(answer.json["embeddings"]["int8"], plain)


@pytest.mark.parametrize(("model", "task"), [("sigmoid", "score"), ("sparse", "sparse"), ("late", "multi-vector")])
def test_a_model_of_another_task(served: Running, model: str, task: str) -> None:
    failure = error(served.post("/v1/embeddings", {"input": "a", "model": model, "dimensions": 4}))
    assert (failure["param"], failure["code"]) == ("model", "wrong_task")
    assert f"{model!r} is of the task {task!r}" in failure["message"]


def test_truncation_is_in_the_headers(server: Running, tiny: Embedder) -> None:
    texts = ["the cat", "dog " * 100, "a", "dog " * 200]
    answer = server.post("/v1/embeddings", {"input": texts})
    assert answer.headers["x-embedrt-truncated"] == "2"
    assert answer.headers["x-embedrt-truncated-indexes"] == "1,3"
    assert answer.json["usage"]["prompt_tokens"] == sum(tiny.token_count(texts))
    assert "x-embedrt-truncated" not in server.post("/v1/embeddings", {"input": ["the cat"]}).headers


@pytest.mark.parametrize("truncate", [False, "NONE"])
def test_truncation_can_be_an_error(server: Running, truncate: Any) -> None:
    body = {"input": ["the cat", "dog " * 100], "truncate": truncate}
    failure = error(server.post("/v1/embeddings", body))
    assert (failure["code"], failure["param"]) == ("context_length_exceeded", "input")
    assert "input[1]" in failure["message"]
    assert "48 tokens" in failure["message"]
    assert server.post("/v1/embeddings", {**body, "truncate": True}).status == 200


@pytest.mark.parametrize("fields", [{"truncation_side": "left"}, {"truncate": "START"}])
def test_the_side_of_truncation(server: Running, tiny: Embedder, fields: dict[str, Any]) -> None:
    text = "the " * 100 + "dog " * 46
    np.testing.assert_allclose(embed(server, text, **fields), tiny.encode(["dog " * 46]), atol=1e-6)
    for right in ({}, {"truncation_side": "right"}, {"truncate": "END"}):
        np.testing.assert_allclose(embed(server, text, **right), tiny.encode(["the " * 46]), atol=1e-6)


def test_the_setting_that_makes_truncation_an_error(tiny_bundle: Path) -> None:
    one = ModelSettings("tiny", str(tiny_bundle), auto_truncate=False)
    with serving(Settings((one,))) as running:
        failure = error(running.post("/v1/embeddings", {"input": "dog " * 100}))
        assert "input[0]" in failure["message"]
        assert running.post("/v1/embeddings", {"input": "dog " * 100, "truncate": True}).status == 200


@pytest.mark.parametrize("limit", [-1, 48, 512])
def test_truncate_prompt_tokens(server: Running, limit: int) -> None:
    long = ["dog " * 100]
    assert embed(server, long, truncate_prompt_tokens=limit).tobytes() == embed(server, long).tobytes()


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"input": None}, "input: expected str or array, got null", "input"),
        ({"input": 7}, "input: expected str or array, got int", "input"),
        ({"input": {"text": "a"}}, "input: expected str or array, got object", "input"),
        ({"input": []}, "input: expected at least one text, got an empty list", "input"),
        ({"input": ["a", None]}, "input[1]: expected int or str or object or array, got null", "input"),
        ({"input": ["a", True]}, "input[1]: expected int or str or object or array, got bool", "input"),
        ({"input": ["a", 1.5]}, "input[1]: expected int or str or object or array, got float", "input"),
        ({"input": ["a", 1]}, "input[1]: expected a text like input[0], got a token id", "input"),
        ({"input": [[1], "a"]}, "input[1]: expected a list of token ids like input[0], got a text", "input"),
        ({"input": [[1, "a"]]}, "input[0][1]: expected int, got str", "input"),
        ({"input": [{"text": 1}]}, "input[0].text: expected str, got int", "input"),
        ({"input": [{"image": "data:"}]}, "input[0]: object missing required field text", "input"),
        ({"input": "a", "dimensions": "x"}, "dimensions: expected int or null, got str", "dimensions"),
        ({"input": "a", "model": 1}, "model: expected str or null, got int", "model"),
        (
            {"input": "a", "encoding_format": "bytes"},
            "encoding_format: expected 'float' or 'base64', got 'bytes'",
            "encoding_format",
        ),
        ({"input": "a", "encoding_format": 1}, "encoding_format: expected str or null, got int", "encoding_format"),
        ({"input": "a", "endianness": "big"}, "endianness: expected 'native' or 'little', got 'big'", "endianness"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype: expected 'float32', got 'float16'", "embed_dtype"),
        ({"input": "a", "input_type": "x"}, "input_type: expected 'query', 'document' or the name of", "input_type"),
        ({"input": "a", "prompt_name": "x"}, "prompt_name: expected one of", "prompt_name"),
        ({"input": "a", "add_special_tokens": False}, "add_special_tokens: expected true", "add_special_tokens"),
        (
            {"input": "a", "truncate_prompt_tokens": 3},
            "truncate_prompt_tokens: expected -1",
            "truncate_prompt_tokens",
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages: expected texts in `input`", "messages"),
        ({}, "input: expected a text or several texts, got nothing", "input"),
    ],
)
def test_wrong_fields(server: Running, fields: dict[str, Any], message: str, param: str) -> None:
    failure = error(server.post("/v1/embeddings", fields))
    assert failure["message"].startswith(message)
    assert (failure["type"], failure["param"]) == ("invalid_request_error", param)


JINA = ["task", "embedding_type", "late_chunking", "normalized"]


@pytest.mark.parametrize("name", JINA)
def test_errors_of_requests_with_fields_of_jina_have_its_shape(server: Running, name: str) -> None:
    answer = server.post("/v1/embeddings", {"input": "a", name: "x"})
    assert (answer.status, set(answer.json)) == (400, {"detail"})
    assert answer.json["detail"].startswith(f"{name}: ")
    assert set(server.post("/v1/embeddings", {"input": [7], name: None}).json) == {"detail"}
    error(server.post("/v1/embeddings", {"input": [name, 7]}))


def test_late_chunking_is_not_available(server: Running) -> None:
    answer = server.post("/v1/embeddings", {"input": "a", "late_chunking": True})
    assert (answer.status, answer.json) == (400, {"detail": "late_chunking: expected false; it is not supported"})
    assert server.post("/v1/embeddings", {"input": "a", "late_chunking": False}).status == 200


BAD_BODIES = [b"", b"{", b"[]", b'"a"', b"nonsense", b"\xff\xfe", b'{"input":"\\ud800"}', b"[" * 10**5]


def test_a_long_value_is_shortened(server: Running) -> None:
    failure = error(server.post("/v1/embeddings", {"input": "a", "encoding_format": "text " * 1000}))
    assert len(failure["message"]) < 200


@pytest.mark.parametrize("body", BAD_BODIES)
def test_bodies_that_are_no_json_objects(server: Running, body: bytes) -> None:
    error(server.post("/v1/embeddings", body))
    assert server.post("/v1/embeddings", {"input": "a"}).status == 200


def test_too_many_texts(tiny_bundle: Path) -> None:
    settings = Settings((ModelSettings("tiny", str(tiny_bundle)),), limits=Limits(request_texts=3))
    with serving(settings) as running:
        assert running.post("/v1/embeddings", {"input": ["a"] * 3}).status == 200
        failure = error(running.post("/v1/embeddings", {"input": ["a"] * 4}), 413)
        assert (failure["code"], failure["param"]) == ("too_many_items", "input")
        assert "at most 3" in failure["message"]


def test_2048_is_no_limit(server: Running, tiny: Embedder) -> None:
    texts = [f"the cat {i}" for i in range(5000)]
    np.testing.assert_allclose(embed(server, texts), tiny.encode(texts), atol=1e-6)


# Token ids.


@pytest.mark.parametrize("ids", [[5, 6], [[5, 6]], [[5], [6, 7]]])
def test_token_ids_are_rejected_with_the_cure(server: Running, ids: list[Any]) -> None:
    failure = error(server.post("/v1/embeddings", {"input": ids}))
    assert (failure["code"], failure["param"]) == ("token_ids_not_supported", "input")
    assert "check_embedding_ctx_length=False" in failure["message"]


@pytest.fixture(scope="module")
def readers(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose models read token ids."""
    vocabulary = tmp_path_factory.mktemp("cl100k") / "cl100k_base.tiktoken"
    pieces = [bytes([byte]) for byte in range(256)] + [b"the", b" cat", b" river"]
    vocabulary.write_bytes(b"".join(b64encode(piece) + b" %d\n" % i for i, piece in enumerate(pieces)))
    models = (
        ModelSettings("own", str(bundles["tiny"]), token_ids="model"),
        ModelSettings("openai", str(bundles["tiny"]), token_ids="cl100k_base"),
        ModelSettings("prompted", str(bundles["prompted"]), token_ids="model"),
    )
    with serving(Settings(models, threads=1, cl100k_vocabulary=vocabulary)) as running:
        yield running


def test_token_ids_of_the_model(readers: Running, tiny: Embedder) -> None:
    texts = ["the cat is on the river bank.", "", "dog"]
    ids = tiny.tokenizer(texts)["input_ids"]
    assert embed(readers, ids, model="own").tobytes() == embed(readers, texts, model="own").tobytes()
    assert embed(readers, ids[0], model="own").tobytes() == embed(readers, texts[0], model="own").tobytes()
    answer = readers.post("/v1/embeddings", {"input": ids, "model": "own"})
    assert answer.json["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_token_ids_of_cl100k_base(readers: Running) -> None:
    ids = [[256, 257], [256, 258, *b" bank"]]
    wanted = embed(readers, ["the cat", "the river bank"], model="openai")
    assert embed(readers, ids, model="openai").tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("model", "ids", "message"),
    [
        ("own", [[1, 2], [1, 10**6]], "input[1][1]: expected a token id from 0 to "),
        ("own", [[-1]], "input[0][0]: expected a token id from 0 to "),
        ("own", [10**30], "input[0][0]: expected a token id from 0 to "),
        ("own", [[1], []], "input[1]: expected at least one token id, got an empty list"),
        ("own", [[1] * 49], "input[0]: expected at most 48 token ids, got 49"),
        ("openai", [[1], [9999]], "input[1][0]: expected a token id of cl100k_base"),
        ("openai", [2**31], "input[0]: expected a token id of cl100k_base"),
        ("prompted:query", [[1]], "input: expected texts, got token ids; the prompt goes before texts only"),
    ],
)
def test_wrong_token_ids(readers: Running, model: str, ids: list[Any], message: str) -> None:
    failure = error(readers.post("/v1/embeddings", {"input": ids, "model": model}))
    assert failure["message"].startswith(message)
    assert failure["param"] == "input"


def test_ids_of_cl100k_base_need_a_vocabulary(tiny_bundle: Path) -> None:
    settings = Settings((ModelSettings("tiny", str(tiny_bundle), token_ids="cl100k_base"),))
    with pytest.raises(ValueError, match="token_ids: 'cl100k_base' needs a vocabulary"):
        open_models(settings, Queues(settings))


# The list of models.


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/openai/v1/models"])
def test_models(served: Running, bundles: dict[str, Path], path: str) -> None:
    content = served.get(path).json
    assert set(content) == {"object", "data"}
    assert content["object"] == "list"
    assert [one["id"] for one in content["data"]] == [*bundles]
    for one in content["data"]:
        assert set(one) == {"id", "object", "created", "owned_by", "max_model_len"}
        assert (one["object"], one["owned_by"]) == ("model", "embedrt")
    assert content["data"][0]["max_model_len"] == 48
    assert served.get(f"{path}/tiny").json == content["data"][0]
    assert served.get(f"{path}/tiny:query").json == {**content["data"][0], "id": "tiny:query"}
    failure = error(served.get(f"{path}/org/unknown"), 404)
    assert failure["code"] == "model_not_found"
    assert "'org/unknown'" in failure["message"]

"""Failures of every kind in the shape of the API that was called, without a path, a key or a text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from embedrt.server.dialects import ENDPOINTS, cohere, ollama, openai, rerank, vllm
from embedrt.server.endpoint import Dialect
from embedrt.server.errors import STATUS, Kind, RequestError
from embedrt.server.settings import ModelSettings, Settings
from tests.kit.bundles import copy_bundle, poison
from tests.kit.server import Running, serving

KEYS: list[tuple[Dialect, set[str]]] = [
    (openai.DIALECT, {"error"}),
    (vllm.DIALECT, {"error"}),
    (cohere.DIALECT, {"message"}),
    (rerank.DIALECT, {"message", "detail"}),
    (ollama.DIALECT, {"error"}),
]


@pytest.mark.parametrize(("dialect", "keys"), KEYS, ids=[dialect.name for dialect, _ in KEYS])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_shape_of_every_kind(dialect: Dialect, keys: set[str], kind: Kind) -> None:
    reply = dialect.error(
        RequestError("a message", kind, param="input", retry_after=7 if kind == "overloaded" else None)
    )
    content = json.loads(b"".join(reply.body))
    assert reply.status == STATUS[kind]
    assert set(content) == keys
    message: Any = content[min(keys)]
    if dialect in {openai.DIALECT, vllm.DIALECT}:
        assert set(message) == {"message", "type", "param", "code"}
        assert isinstance(message["code"], str | None)
        message = message["message"]
    assert message == "a message"
    expected = {"overloaded": {"retry-after": "7"}, "backend": {"x-should-retry": "false"}}
    for waiting in ("timeout", "unhealthy"):
        expected[waiting] = {"retry-after": "1"}
    assert reply.headers == expected.get(kind, {})


def test_every_body_and_reply_has_a_schema() -> None:
    types = [one for endpoint in ENDPOINTS for one in (endpoint.body, endpoint.reply) if one is not None]
    schemas, _ = msgspec.json.schema_components(types)
    assert len(schemas) == len(types)


@pytest.fixture(scope="module")
def poisoned(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose model returns NaN for every text with the word "bank"."""
    folder = copy_bundle(tiny_bundle, tmp_path_factory.mktemp("poisoned") / "bundle")
    poison(folder, "bank", float("nan"))
    with serving(Settings((ModelSettings("tiny", str(folder)),), threads=1)) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "field", "keys"),
    [
        ("/v1/embeddings", "input", {"error"}),
        ("/v2/embed", "texts", {"message"}),
        ("/v1/embed", "texts", {"message"}),
        ("/api/embed", "input", {"error"}),
        ("/pooling", "input", {"error"}),
    ],
)
def test_nan_is_an_error_with_the_index_of_the_text(poisoned: Running, path: str, field: str, keys: set[str]) -> None:
    answer = poisoned.post(path, {field: ["the cat", "a dog", "a river bank"]})
    assert (answer.status, set(answer.json)) == (500, keys)
    assert f"{field}[2]: the model returned NaN or infinity" in answer.body.decode()
    assert answer.headers["x-should-retry"] == "false"
    assert b"/" not in answer.body
    assert b"river" not in answer.body
    assert poisoned.post(path, {field: ["the cat", "a dog"]}).status == 200

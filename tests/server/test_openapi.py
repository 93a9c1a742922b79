"""The OpenAPI document: every route, with schemas that hold for real replies."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from embedrt.server.endpoint import Endpoint
from embedrt.server.openapi import openapi
from embedrt.server.routes import routes
from embedrt.server.settings import ModelSettings, Settings
from tests.kit.server import Running, serving

ROUTES = routes()


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server with one small model."""
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),))) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Running) -> Any:
    """The document that the server has."""
    answer = server.get("/openapi.json")
    assert answer.status == 200
    return answer.json


def described_path(path: str) -> str:
    """A path as the document has it."""
    return path.replace(":path}", "}")


def schema(document: Any, part: Any) -> Draft202012Validator:
    """A schema of the document that finds the others."""
    return Draft202012Validator({**part, "components": document["components"]})


def test_every_route_is_described_once(document: Any) -> None:
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    paths = {(one.method, described_path(path)) for one in ROUTES for path in (one.path, *one.also)}
    assert described == paths | {("GET", "/metrics")}, "the configuration decides about the metrics"
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len({*names}) == len(names)
    assert document["openapi"].startswith("3.1")


def test_every_schema_is_one_and_every_reference_leads_to_one(document: Any) -> None:
    for found in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(found)
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]


def test_no_name_of_the_code_shows(document: Any) -> None:
    text = json.dumps(document)
    assert "Attributes:" not in text
    assert "embedrt.server" not in text


def test_every_field_of_a_body_is_described(document: Any) -> None:
    for endpoint in ROUTES:
        if endpoint.body is None:
            continue
        content = document["paths"][described_path(endpoint.path)][endpoint.method.lower()]["requestBody"]["content"]
        part = content["application/json"]["schema"]
        for one in part.get("anyOf", [part]):
            described = document["components"]["schemas"][one["$ref"].rpartition("/")[2]]
            for name, field in described["properties"].items():
                assert field.get("description"), f"{endpoint.path}: {name}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "base64"}),
        ("/v2/embed", {"texts": ["a"], "input_type": "search_query", "embedding_types": ["float", "binary"]}),
        ("/api/embed", {"input": "a", "model": "tiny"}),
        ("/v1/models", None),
        ("/api/tags", None),
        ("/page/models", None),
    ],
)
def test_replies_have_the_described_form(server: Running, document: Any, path: str, body: Any) -> None:
    answer = server.get(path) if body is None else server.post(path, body)
    assert answer.status == 200, answer.body
    operation = document["paths"][path]["get" if body is None else "post"]
    if body is not None:
        schema(document, operation["requestBody"]["content"]["application/json"]["schema"]).validate(body)
    described = operation["responses"]["200"]["content"]["application/json"]["schema"]
    schema(document, described).validate(answer.json)


@pytest.mark.parametrize("endpoint", [one for one in ROUTES if one.body is not None], ids=lambda one: one.path)
def test_errors_have_the_described_form(server: Running, document: Any, endpoint: Endpoint) -> None:
    answer = server.post(endpoint.path, b"[")
    assert 400 <= answer.status < 500
    failure = document["paths"][described_path(endpoint.path)]["post"]["responses"]["default"]
    schema(document, failure["content"]["application/json"]["schema"]).validate(answer.json)


def test_keys_are_described_where_they_are_needed(document: Any) -> None:
    assert document["paths"]["/"]["get"]["security"] == []
    assert {"bearer": []} in document["paths"]["/v1/embeddings"]["post"]["security"]


def test_routes_of_the_configuration_come_along() -> None:
    own = next(one for one in ROUTES if one.path == "/page/models")
    assert "/more" in openapi([Endpoint("GET", "/more", own.handler, own.dialect, "More")])["paths"]

"""The OpenAPI document, from the table of endpoints."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import orjson

from embedrt._version import __version__
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import RequestError
from embedrt.server.replies import json_reply

_COMPONENTS = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if the server has any."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The same, as Azure sends it."},
}
_DESCRIPTION = (
    "Text embeddings, scores and sparse vectors, by the APIs of OpenAI, TEI, Cohere, Jina, Ollama and Weaviate. "
    "Unknown fields of a request are ignored."
)


def with_document(endpoints: Sequence[Endpoint], dialect: Dialect) -> tuple[Endpoint, ...]:
    """The endpoints, and one more that returns the OpenAPI document of them all.

    Args:
        endpoints: The endpoints.
        dialect: The dialect of the new one.
    """

    @cache
    def document() -> Mapping[str, Any]:
        return openapi(everything)

    async def describe(_: None, exchange: Exchange) -> Reply:
        return json_reply(document())

    described = Endpoint("GET", "/openapi.json", describe, dialect, "Describe all routes", reply=dict, public=True)
    everything = (*endpoints, described)
    return everything


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a table of endpoints."""
    kinds = [kind for endpoint in endpoints for kind in _kinds(endpoint)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_COMPONENTS)
    schema_of = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        body = None if endpoint.body is None else next(schema_of)
        replies = [next(schema_of) for _ in _replies(endpoint)]
        for path in (endpoint.path, *endpoint.also):
            operation = _operation(endpoint, path, body, _one_of(replies))
            paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[endpoint.method.lower()] = operation
    structs = list(_structs(kinds))
    # Two structs of one name are told apart by their modules.
    by_name = {kind.__name__: kind for kind in structs} | {
        f"{kind.__module__}.{kind.__name__}": kind for kind in structs
    }
    for name, component in components.items():
        _describe(component, by_name[name])
    document = {
        "openapi": "3.1.0",
        "info": {"title": "embedrt", "version": __version__, "description": _DESCRIPTION},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }
    short: dict[str, Any] = orjson.loads(orjson.dumps(document).replace(b"embedrt.server.dialects.", b""))
    return short


def _replies(endpoint: Endpoint) -> list[Any]:
    """The types of the replies of an endpoint: one for each of its forms."""
    return [one.reply for one in endpoint.forms or (endpoint,) if one.reply is not None]


def _kinds(endpoint: Endpoint) -> list[Any]:
    """The types of its bodies: requests, then replies."""
    return [*([] if endpoint.body is None else [endpoint.body]), *_replies(endpoint)]


def _one_of(schemas: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    if not schemas:
        return None
    return schemas[0] if len(schemas) == 1 else {"anyOf": [*schemas]}


def _operation(
    endpoint: Endpoint, path: str, body: Mapping[str, Any] | None, reply: Mapping[str, Any] | None
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": "_".join([endpoint.method.lower(), *re.findall(r"\w+", path)]),
        "summary": endpoint.summary,
        "tags": [endpoint.dialect.name],
        "security": [] if endpoint.public else [{}, *({name: []} for name in _SECURITY)],
    }
    names = _PARAMETER.findall(path)
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if body is not None:
        described["requestBody"] = {"required": True, "content": _json(body)}
    success: dict[str, Any] = {"description": "Success"}
    if reply is not None:
        success["content"] = _json(reply)
    failure: dict[str, Any] = {"description": "Failure"}
    shape = _one_of(list(_errors(endpoint)))
    if shape is not None:
        failure["content"] = _json(shape)
    described["responses"] = {"2XX" if reply is None else "200": success, "default": failure}
    return described


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _errors(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    """The shapes of its errors, each from an example: what the dialect makes of a failure."""
    seen = set()
    for dialect in (one.dialect for one in endpoint.forms or (endpoint,)):
        body = b"".join(dialect.error(RequestError("message", param="field", code="code", index=0)).body)
        if body and body not in seen:
            seen.add(body)
            yield _shape(orjson.loads(body))


def _shape(example: Any) -> dict[str, Any]:
    """The schema of an error, from an example of it."""
    if isinstance(example, dict):
        return {
            "type": "object",
            "required": [*example],
            "properties": {name: _shape(value) for name, value in example.items()},
        }
    if isinstance(example, str):
        return {"type": ["string", "null"]}
    return {}


def _structs(kinds: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """All structs that types consist of."""
    seen: set[Any] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, msgspec.inspect.Type):
            waiting.extend(_parts(kind))
            if isinstance(kind, msgspec.inspect.StructType) and kind.cls not in seen:
                seen.add(kind.cls)
                yield kind.cls
                waiting.extend(field.type for field in kind.fields)
        else:
            waiting.append(msgspec.inspect.type_info(kind))


def _parts(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    for name in ("types", "item_types"):
        yield from getattr(kind, name, ())
    for name in ("item_type", "key_type", "value_type"):
        part = getattr(kind, name, None)
        if part is not None:
            yield part


def _describe(component: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Move the descriptions of fields from the docstring of a struct to its properties."""
    text = inspect.cleandoc(struct.__doc__ or "")
    before, _, attributes = text.partition("\nAttributes:\n")
    if before:
        component["description"] = " ".join(before.split())
    described = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    for name, description in described:
        schema = component.get("properties", {}).get(name)
        if schema is not None:
            schema["description"] = " ".join(description.split())

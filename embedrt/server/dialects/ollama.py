"""Ollama's API for embeddings, and what its clients ask before."""

import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np

from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, RequestError, headers_of
from embedrt.server.formats import embed
from embedrt.server.replies import json_items, json_reply, to_json
from embedrt.server.served import Options, Role, Served

_STARTED = datetime.now(UTC).isoformat()
# What clients compare: the features of this release are there.
_VERSION = "0.12.0"


class EmbedRequest(msgspec.Struct, kw_only=True):
    """Texts to embed, as Ollama has it. Unknown fields are ignored.

    Attributes:
        model: The model, or an alias such as "name:query"; a tag ":latest" has no effect.
        input: One text, or several texts.
        truncate: False makes texts that are too long an error; null takes the server's default.
        dimensions: Coordinates to keep; the rest is cut off, and the vector normalized.
    """

    model: str | None = None
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None


class LegacyRequest(msgspec.Struct, kw_only=True):
    """A text to embed, as older clients of Ollama have it. Unknown fields are ignored.

    Attributes:
        model: The model.
        prompt: The text.
    """

    model: str | None = None
    prompt: str | None = None


class ShowRequest(msgspec.Struct, kw_only=True):
    """A model to describe.

    Attributes:
        model: The model.
        name: The same, as older clients have it.
    """

    model: str | None = None
    name: str | None = None


class EmbedReply(msgspec.Struct, kw_only=True):
    """The vectors of a request, in the order of its texts.

    Attributes:
        model: The model, as the request names it; another one that answered has its own name.
        embeddings: The vectors.
        total_duration: Nanoseconds of the request.
        load_duration: Nanoseconds of loading, which is over.
        prompt_eval_count: Tokens that the model read.
    """

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class LegacyReply(msgspec.Struct, kw_only=True):
    """The vector of a text.

    Attributes:
        embedding: The vector.
    """

    embedding: list[float]


class Details(msgspec.Struct, kw_only=True):
    """Facts about a model.

    Attributes:
        parent_model: The model that it is made from; empty.
        format: "onnx".
        family: The architecture.
        families: The same, as a list.
        parameter_size: The size of the weights; empty, as it is not known.
        quantization_level: The dtype.
    """

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(msgspec.Struct, kw_only=True):
    """One model.

    Attributes:
        name: Its name.
        model: The same.
        modified_at: The time at which the server opened it.
        size: Bytes of its files.
        digest: SHA-256 of its vector space.
        details: More facts.
    """

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(msgspec.Struct, kw_only=True):
    """All models.

    Attributes:
        models: The models.
    """

    models: list[Tag]


class Version(msgspec.Struct, kw_only=True):
    """A version.

    Attributes:
        version: The version of Ollama's API that clients may expect.
    """

    version: str


class ShowReply(msgspec.Struct, kw_only=True):
    """A description of a model.

    Attributes:
        modelfile: Empty.
        parameters: Empty.
        template: Empty.
        details: Facts.
        model_info: More facts by name.
        capabilities: "embedding", for models that embed texts.
        modified_at: The time at which the server opened it.
    """

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def error(failure: RequestError) -> Reply:
    """A failure as Ollama's clients read it."""
    return json_reply({"error": failure.message}, STATUS[failure.kind], headers_of(failure))


DIALECT = Dialect("ollama", error)


async def embed_texts(body: EmbedRequest, exchange: Exchange) -> Reply:
    """Embed texts."""
    started = time.monotonic_ns()
    served, role = _find(body.model, exchange)
    texts = [body.input] if isinstance(body.input, str) else body.input or []
    tokens, rows = 0, np.empty((0, 1), np.float32)
    if texts and body.input:  # Ollama answers "" with no vector, and so do we
        options = Options(role, truncate=body.truncate)
        embedded = await embed(served, exchange, texts, options, dim=body.dimensions)
        tokens, rows = embedded.outcome.tokens, embedded.unit
    name = served.name if exchange.notes.substituted else body.model or served.name
    before = b'{"model":' + to_json(name) + b',"embeddings":'
    facts = {
        "total_duration": time.monotonic_ns() - started,
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }
    return Reply(await json_items(rows, before, b"," + to_json(facts)[1:], width=rows.shape[1]))


async def embed_text(body: LegacyRequest, exchange: Exchange) -> Reply:
    """Embed one text, as older clients ask for it."""
    served, role = _find(body.model, exchange)
    if not body.prompt:
        return json_reply({"embedding": []})
    embedded = await embed(served, exchange, [body.prompt], Options(role, param="prompt"))
    return json_reply({"embedding": embedded.unit[0]})


async def tags(_: None, exchange: Exchange) -> Reply:
    """List the models."""
    return json_reply({"models": [_tag(one) for one in exchange.models.served]})


async def version(_: None, _exchange: Exchange) -> Reply:
    """The version."""
    return json_reply({"version": _VERSION})


async def show(body: ShowRequest, exchange: Exchange) -> Reply:
    """Describe a model."""
    served, _ = _find(body.model or body.name, exchange)
    manifest = served.model.manifest
    family = _details(served)["family"]
    info = {
        "general.architecture": family,
        "general.basename": served.name,
        f"{family}.context_length": served.model.max_seq_length,
        f"{family}.embedding_length": manifest.width("sentence") if served.offers("embed") else None,
    }
    return json_reply(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(served),
            "model_info": {name: value for name, value in info.items() if value is not None},
            "capabilities": ["embedding"] if served.offers("embed") else [],
            "modified_at": _STARTED,
        }
    )


def _find(name: str | None, exchange: Exchange) -> tuple[Served, Role | None]:
    """The model of a name, with or without the tag that Ollama's clients add."""
    given = name or ""
    plain = given if exchange.models.get(given) else given.removesuffix(":latest")
    return exchange.models.find(plain, exchange, "embed")


def _details(served: Served) -> dict[str, Any]:
    family = next(iter(served.model.manifest.routes.values())).architecture
    return {
        "parent_model": "",
        "format": "onnx",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": served.model.dtype,
    }


def _tag(served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": _STARTED,
        "size": sum(record.size for record in served.model.manifest.files.values()),
        "digest": sha256(served.model.fingerprint.encode()).hexdigest(),
        "details": _details(served),
    }


ENDPOINTS = (
    Endpoint("POST", "/api/embed", embed_texts, DIALECT, "Embed texts (Ollama)", EmbedRequest, EmbedReply),
    Endpoint(
        "POST", "/api/embeddings", embed_text, DIALECT, "Embed one text (Ollama, legacy)", LegacyRequest, LegacyReply
    ),
    Endpoint("GET", "/api/tags", tags, DIALECT, "List the models (Ollama)", reply=Tags),
    Endpoint("GET", "/api/version", version, DIALECT, "Version (Ollama)", reply=Version),
    Endpoint("POST", "/api/show", show, DIALECT, "Describe a model (Ollama)", ShowRequest, ShowReply),
)

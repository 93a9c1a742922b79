"""The API of Weaviate's inference container for its module text2vec-transformers."""

from typing import Any, Literal

import msgspec

from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, RequestError, headers_of
from embedrt.server.formats import embed
from embedrt.server.input_types import input_type_of
from embedrt.server.replies import json_items, json_reply, to_json
from embedrt.server.served import Options


class VectorsConfig(msgspec.Struct, kw_only=True):
    """Options of vectors. Unknown fields are ignored.

    Attributes:
        pooling_strategy: Has no effect: the model has its own pooling.
        task_type: "query", or "passage" for documents; null takes documents.
        dimensions: Coordinates to keep; null and 0 keep all.
    """

    pooling_strategy: str | None = None
    task_type: str | None = None
    dimensions: int | None = None


class VectorsRequest(msgspec.Struct, kw_only=True):
    """A text to embed, or several. Unknown fields are ignored.

    Attributes:
        text: The text.
        texts: Several texts, in place of `text`.
        config: Options.
    """

    text: str | None = None
    texts: list[str] | None = None
    config: VectorsConfig | None = None


class VectorsReply(msgspec.Struct, kw_only=True):
    """The vector of a text, or those of several.

    Attributes:
        text: The text.
        vector: Its vector.
        dim: The number of coordinates.
        dims: The same.
        vectors: The vectors of several texts, in place of `text` and `vector`.
        error: null.
    """

    text: str | msgspec.UnsetType = msgspec.UNSET
    vector: list[float] | msgspec.UnsetType = msgspec.UNSET
    vectors: list[list[float]] | msgspec.UnsetType = msgspec.UNSET
    dim: int
    dims: int
    error: str | None


def error(failure: RequestError) -> Reply:
    """A failure as Weaviate reads it."""
    return json_reply({"error": failure.message}, STATUS[failure.kind], headers_of(failure))


DIALECT = Dialect("weaviate", error)
_PROBE = Dialect("weaviate", lambda failure: Reply((), STATUS[failure.kind], "text/plain", headers_of(failure)))


async def vectors(body: VectorsRequest, exchange: Exchange) -> Reply:
    """Embed a text, or several."""
    served, role = exchange.models.find(None, exchange, "embed")
    if (body.text is None) == (body.texts is None):
        found = "neither" if body.text is None else "both"
        raise RequestError(f"text: expected one of text and texts, got {found}", param="text")
    param = "text" if body.texts is None else "texts"
    texts = [body.text or ""] if body.texts is None else body.texts
    config = body.config or VectorsConfig()
    chosen = input_type_of(
        served.model.prompts, role=role, named=config.task_type or "document", param="config.task_type"
    )
    embedded = await embed(
        served, exchange, texts, Options(chosen.role, chosen.prompt_name, param=param), dim=config.dimensions or None
    )
    rows = embedded.rows("float")
    facts: dict[str, Any] = {"dim": rows.shape[1], "dims": rows.shape[1], "error": None}
    if body.texts is None:
        return json_reply({"text": body.text, "vector": rows[0], **facts})
    return Reply(await json_items(rows, b'{"vectors":', b"," + to_json(facts)[1:], width=rows.shape[1]))


async def meta(_: None, exchange: Exchange) -> Reply:
    """Describe the first model."""
    served = exchange.models.served[0]
    exchange.notes.model = served.name
    model = served.model
    facts = {
        "model_name": served.name,
        "model_type": next(iter(model.manifest.routes.values())).architecture,
        "max_tokens": model.max_seq_length,
        "dtype": model.dtype,
    }
    return json_reply({"model": facts, "model_path": served.name})


async def alive(_: None, exchange: Exchange) -> Reply:
    """Answer that the server runs."""
    del exchange
    return Reply(status=204, media_type="text/plain")


def _probe(name: Literal["live", "ready"], summary: str) -> Endpoint:
    return Endpoint("GET", f"/.well-known/{name}", alive, _PROBE, summary, public=True, probe=name == "ready")


ENDPOINTS = (
    Endpoint("POST", "/vectors", vectors, DIALECT, "Embed texts (Weaviate)", VectorsRequest, VectorsReply),
    Endpoint("GET", "/meta", meta, DIALECT, "Describe the first model (Weaviate)", None, dict[str, Any]),
    _probe("live", "Answer that the server runs"),
    _probe("ready", "Answer that the server takes requests"),
)

"""Cohere's API for embeddings, versions 2 and 1."""

from functools import partial
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from embedrt.inputs.text import Side
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, RequestError, headers_of
from embedrt.server.formats import Format, embed, item
from embedrt.server.input_types import input_type_of
from embedrt.server.replies import json_items, json_reply, to_json
from embedrt.server.served import Options


class Content(msgspec.Struct, kw_only=True):
    """A part of an input.

    Attributes:
        type: "text"; "image_url" is not supported.
        text: The text.
    """

    type: str
    text: str | None = None


class Input(msgspec.Struct, kw_only=True):
    """An input of several parts.

    Attributes:
        content: The parts; there must be one text.
    """

    content: list[Content]


class EmbedRequest(msgspec.Struct, kw_only=True):
    """Texts to embed, as Cohere has it. Unknown fields are ignored.

    Attributes:
        model: The model, or an alias such as "name:query"; null takes the only one.
        input_type: "search_query", "search_document", "classification", "clustering", or the name of a prompt.
        texts: The texts.
        inputs: The texts, each as an object with its content.
        images: Images, which are not supported.
        embedding_types: The formats of the vectors; null is "float".
        output_dimension: Coordinates to keep; the rest is cut off, and the vector normalized.
        truncate: "NONE" makes texts that are too long an error; "START" and "END" are the side that
            truncation removes.
    """

    model: str | None = None
    input_type: str | None = None
    texts: list[str] | None = None
    inputs: list[Input] | None = None
    images: list[str] | None = None
    embedding_types: list[Format] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "START", "END"] | None = None


class Billed(msgspec.Struct, kw_only=True):
    """The size of a request.

    Attributes:
        input_tokens: Tokens that the model read.
    """

    input_tokens: int


class ApiVersion(msgspec.Struct, kw_only=True):
    """The version of the API.

    Attributes:
        version: "1" or "2".
    """

    version: str


class Meta(msgspec.Struct, kw_only=True):
    """Facts about a request.

    Attributes:
        api_version: The version of the API.
        billed_units: The size of the request.
    """

    api_version: ApiVersion
    billed_units: Billed


class EmbedReply(msgspec.Struct, kw_only=True):
    """The vectors of a request, in the order of its texts.

    Attributes:
        id: The id of the request.
        embeddings: The vectors by format; version 1 has a plain list if the request names no formats.
        texts: The texts.
        meta: Facts about the request.
        response_type: For version 1: "embeddings_floats" or "embeddings_by_type".
    """

    id: str
    embeddings: dict[str, list[list[float] | str]] | list[list[float]]
    texts: list[str]
    meta: Meta
    response_type: str | msgspec.UnsetType = msgspec.UNSET


def error(failure: RequestError) -> Reply:
    """A failure as Cohere's clients read it."""
    return json_reply({"message": failure.message}, STATUS[failure.kind], headers_of(failure))


DIALECT = Dialect("cohere", error)

_SIDES: dict[str, Side] = {"START": "left", "END": "right"}


async def embed_v2(body: EmbedRequest, exchange: Exchange) -> Reply:
    """Embed texts, as version 2 has it."""
    return await _embed(body, exchange, body.embedding_types or ["float"], "2")


async def embed_v1(body: EmbedRequest, exchange: Exchange) -> Reply:
    """Embed texts, as version 1 has it."""
    return await _embed(body, exchange, body.embedding_types, "1")


async def _embed(body: EmbedRequest, exchange: Exchange, types: list[Format] | None, version: str) -> Reply:
    served, role = exchange.models.find(body.model, exchange, "embed")
    param, texts = _texts(body)
    chosen = input_type_of(served.model.prompts, role=role, named=body.input_type)
    formats: list[Format] = list(dict.fromkeys(types or ["float"]))
    embedded = await embed(
        served,
        exchange,
        texts,
        Options(
            chosen.role,
            chosen.prompt_name,
            truncate=None if body.truncate is None else body.truncate != "NONE",
            truncation_side=_SIDES.get(body.truncate or ""),
            param=param,
        ),
        formats,
        dim=body.output_dimension,
        param="embedding_types",
        dim_param="output_dimension",
    )
    by_type = types is not None
    blocks = [b'{"id":', to_json(exchange.request_id), b',"embeddings":', b"{" if by_type else b""]
    for i, written in enumerate(formats):
        name = to_json(written) + b":" if by_type else b""
        rows = embedded.rows(written)
        before = b"," + name if i else name
        blocks += await json_items(rows, before, b"", partial(_row, written), width=rows.shape[1])
    rest: dict[str, Any] = {
        "texts": texts,
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"input_tokens": embedded.outcome.tokens},
        },
    }
    if version == "1":
        rest["response_type"] = "embeddings_by_type" if by_type else "embeddings_floats"
    blocks += [b"}," if by_type else b",", to_json(rest)[1:]]
    return Reply(tuple(blocks))


def _row(written: Format, _: int, row: NDArray[Any]) -> Any:
    return item(row, written)


def _texts(body: EmbedRequest) -> tuple[str, list[str]]:
    """The field with the texts, and the texts."""
    if body.images:
        raise RequestError("images: expected texts; the model reads no images", param="images")
    if body.texts is not None:
        return "texts", body.texts
    if body.inputs is None:
        raise RequestError("texts: expected a list of texts, got nothing", param="texts")
    return "inputs", [_text(one, i) for i, one in enumerate(body.inputs)]


def _text(one: Input, index: int) -> str:
    if len(one.content) != 1 or one.content[0].type != "text" or one.content[0].text is None:
        raise RequestError(
            f"inputs[{index}]: expected one content of the type 'text'; the model reads no images and no mixtures",
            param="inputs",
            index=index,
        )
    return one.content[0].text


ENDPOINTS = (
    Endpoint("POST", "/v2/embed", embed_v2, DIALECT, "Embed texts (Cohere, version 2)", EmbedRequest, EmbedReply),
    Endpoint("POST", "/v1/embed", embed_v1, DIALECT, "Embed texts (Cohere, version 1)", EmbedRequest, EmbedReply),
)

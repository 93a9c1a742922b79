"""OpenAI's API, with the fields that Jina and vLLM add to it: embeddings, and the list of models."""

import time
from dataclasses import replace
from typing import Any, Literal

import msgspec

from embedrt.inputs.text import Tokens
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, Kind, RequestError, headers_of
from embedrt.server.formats import Format, embed, item
from embedrt.server.input_types import input_type_of
from embedrt.server.replies import json_items, json_reply, to_json
from embedrt.server.served import Options, Served
from embedrt.server.token_ids import IdRows, Inputs, read_items, tokens_of_ids

_TYPES: dict[Kind, str] = {
    "unauthorized": "authentication_error",
    "overloaded": "rate_limit_error",
    "backend": "server_error",
    "timeout": "server_error",
    "unhealthy": "server_error",
}
_CODES: dict[Kind, str] = {
    "unauthorized": "invalid_api_key",
    "overloaded": "rate_limit_exceeded",
    "not_found": "not_found",
    "too_large": "request_too_large",
    "truncated": "context_length_exceeded",
    "backend": "model_failed",
    "timeout": "timeout",
    "unhealthy": "unavailable",
}
_STARTED = int(time.time())
# A switch for Jina, a side for NVIDIA.
Truncate = bool | Literal["NONE", "START", "END"]


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """Texts to embed, as OpenAI, Jina and vLLM have it. Unknown fields are ignored.

    Attributes:
        input: One text, several texts, or token ids.
        model: The model, or an alias such as "name:query"; null takes the only one.
        encoding_format: "float", or "base64" for float32 in little-endian order.
        dimensions: Coordinates to keep; the rest is cut off, and the vector normalized.
        user: Has no effect.
        input_type: "query", "document", or the name of a prompt.
        task: The same, as Jina names it.
        prompt_name: The model's prompt to put before every text.
        embedding_type: Jina's name for the format; it has "binary" and "ubinary" too.
        normalized: Jina's switch: false gives vectors as the model has them.
        normalize: The same, as older versions of vLLM have it.
        use_activation: The same, as vLLM has it.
        late_chunking: Jina's switch, which is not available.
        truncate: false or "NONE" makes texts that are too long an error; "START" and "END" are the side that
            truncation removes.
        truncate_prompt_tokens: vLLM's maximum of tokens; -1 is the model's.
        truncation_side: The side of a text that truncation removes.
        add_special_tokens: vLLM's switch, which cannot be false.
        embed_dtype: vLLM's number format of base64.
        endianness: vLLM's byte order of base64.
        messages: vLLM's conversations, which are not available.
    """

    input: Inputs | msgspec.UnsetType = msgspec.UNSET
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: str | None = None
    task: str | None = None
    prompt_name: str | None = None
    embedding_type: Literal["float", "base64", "binary", "ubinary"] | None = None
    normalized: bool | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    late_chunking: bool | None = None
    truncate: Truncate | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None
    messages: Any = None


class Embedding(msgspec.Struct, kw_only=True):
    """The vector of one text.

    Attributes:
        object: "embedding".
        index: The index of the text.
        embedding: The vector: numbers, or base64.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct, kw_only=True):
    """Tokens that the model read.

    Attributes:
        prompt_tokens: Tokens after truncation, special tokens included.
        total_tokens: The same.
    """

    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(msgspec.Struct, kw_only=True):
    """The vectors of a request, in the order of its texts.

    Attributes:
        object: "list".
        data: One item for each text.
        model: The name of the model that answered.
        usage: Tokens that the model read.
    """

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelItem(msgspec.Struct, kw_only=True):
    """One model.

    Attributes:
        id: Its name.
        object: "model".
        created: Seconds since 1970 at which the server opened it.
        owned_by: "embedrt".
        max_model_len: Tokens that it reads of a text; null is all.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(msgspec.Struct, kw_only=True):
    """All models.

    Attributes:
        object: "list".
        data: The models, the default one first.
    """

    object: Literal["list"]
    data: list[ModelItem]


def error(failure: RequestError) -> Reply:
    """A failure as OpenAI's clients read it."""
    content = {
        "message": failure.message,
        "type": _TYPES.get(failure.kind, "invalid_request_error"),
        "param": failure.param,
        "code": failure.code or _CODES.get(failure.kind),
    }
    return json_reply({"error": content}, STATUS[failure.kind], headers_of(failure))


def _jina_error(failure: RequestError) -> Reply:
    return json_reply({"detail": failure.message}, STATUS[failure.kind], headers_of(failure))


DIALECT = Dialect("openai", error)
_JINA_DIALECT = Dialect("jina", _jina_error)


async def embeddings(body: EmbeddingRequest, exchange: Exchange) -> Reply:
    """Embed texts."""
    _refuse_what_changes_vectors(body)
    served, role = exchange.models.find(body.model, exchange, "embed")
    items = read_items(_input(body), served.settings.token_ids, exchange.models.vocabulary)
    chosen = input_type_of(
        served.model.prompts,
        role=role,
        named=body.task if body.input_type is None else body.input_type,
        prompt_name=body.prompt_name,
        param="task" if body.input_type is None else "input_type",
    )
    options = Options(
        chosen.role,
        chosen.prompt_name,
        truncate=_truncates(body, served),
        truncation_side="left" if body.truncate == "START" else body.truncation_side,
    )
    written: Format = body.embedding_type or body.encoding_format or "float"
    embedded = await embed(
        served,
        exchange,
        _readable(served, items, options),
        options,
        (written,),
        dim=body.dimensions,
        normalize=False not in {body.normalized, body.normalize, body.use_activation},
    )
    tokens = embedded.outcome.tokens
    usage = to_json({"model": served.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    rows = embedded.rows(written)
    return Reply(
        await json_items(
            rows,
            b'{"object":"list","data":',
            b"," + usage[1:],
            lambda i, row: {"object": "embedding", "index": i, "embedding": item(row, written)},
            width=rows.shape[1],
        )
    )


async def deployment(body: EmbeddingRequest, exchange: Exchange) -> Reply:
    """Embed texts with the model that the path names, as Azure's clients ask for it."""
    body.model = exchange.path.partition("/deployments/")[2].removesuffix("/embeddings")
    return await embeddings(body, exchange)


def _input(body: EmbeddingRequest) -> Inputs:
    if isinstance(body.input, msgspec.UnsetType):
        raise RequestError("input: expected a text or several texts, got nothing", param="input")
    return body.input


def _readable(served: Served, items: list[str] | IdRows, options: Options) -> list[str] | Tokens:
    """Texts as they are, and token ids as the model reads them."""
    if not isinstance(items, IdRows):
        return items
    if served.prompt(options):
        raise RequestError("input: expected texts, got token ids; the prompt goes before texts only", param="input")
    runner, tokenizer = served.tokenizer(options)
    return tokens_of_ids(items, runner, tokenizer.max_seq_length)


def _refuse_what_changes_vectors(body: EmbeddingRequest) -> None:
    """Refuse the fields that would change the vectors, and are not available."""
    if body.messages is not None:
        raise RequestError("messages: expected texts in `input`; conversations are not supported", param="messages")
    if body.late_chunking:
        raise RequestError("late_chunking: expected false; it is not supported", param="late_chunking")
    if body.add_special_tokens is False:
        raise RequestError(
            "add_special_tokens: expected true; the model reads texts with its special tokens",
            param="add_special_tokens",
        )


def _truncates(body: EmbeddingRequest, served: Served) -> bool | None:
    """True to truncate long texts, False for an error, None for the server's default."""
    limit, wanted = served.model.max_seq_length, body.truncate_prompt_tokens
    if wanted is not None:
        if wanted != -1 and (limit is None or wanted < limit):
            least = "" if limit is None else f" or at least {limit}, the model's limit"
            raise RequestError(
                f"truncate_prompt_tokens: expected -1{least}, got {wanted}",
                param="truncate_prompt_tokens",
            )
        return True
    return body.truncate if isinstance(body.truncate, bool | None) else body.truncate != "NONE"


async def models(_: None, exchange: Exchange) -> Reply:
    """List the models."""
    return json_reply({"object": "list", "data": [_item(one.name, one) for one in exchange.models.served]})


async def model(_: None, exchange: Exchange) -> Reply:
    """One model, by name or alias."""
    name = exchange.path.partition("/models/")[2]
    served = exchange.models.get(name)
    if served is None:
        raise RequestError(
            f"The model {name[:100]!r} does not exist", "not_found", param="model", code="model_not_found"
        )
    return json_reply(_item(name, served))


def _item(name: str, served: Served) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "embedrt",
        "max_model_len": served.model.max_seq_length,
    }


class _JinaKeys(msgspec.Struct):
    """The fields that Jina alone has."""

    task: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    embedding_type: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    late_chunking: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    normalized: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_EMBEDDINGS = Endpoint("POST", "/v1/embeddings", embeddings, DIALECT, "Embed texts", EmbeddingRequest, EmbeddingReply)
_JINA = replace(_EMBEDDINGS, dialect=_JINA_DIALECT)


def endpoint_of(body: bytes) -> Endpoint:
    """The endpoint of the API that a body is for: Jina's, which has other errors, if it has a field of Jina's."""
    if not any(b'"%b"' % name.encode() in body for name in _JinaKeys.__struct_fields__):  # saves a second decoding
        return _EMBEDDINGS
    try:
        keys = msgspec.json.decode(body, type=_JinaKeys)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _EMBEDDINGS  # whose decoder has the error
    return _EMBEDDINGS if keys == _JinaKeys() else _JINA


ENDPOINTS = (
    replace(_EMBEDDINGS, also=("/embeddings", "/openai/v1/embeddings"), choose=endpoint_of, forms=(_EMBEDDINGS, _JINA)),
    Endpoint(
        "POST",
        "/openai/deployments/{model:path}/embeddings",
        deployment,
        DIALECT,
        "Embed texts (Azure)",
        EmbeddingRequest,
        EmbeddingReply,
    ),
    Endpoint(
        "GET", "/v1/models", models, DIALECT, "List the models", reply=ModelList, also=("/models", "/openai/v1/models")
    ),
    Endpoint(
        "GET",
        "/v1/models/{model:path}",
        model,
        DIALECT,
        "Describe one model",
        reply=ModelItem,
        also=("/models/{model:path}", "/openai/v1/models/{model:path}"),
    ),
)

"""OpenAI's embeddings API."""

from typing import Any, Literal

import msgspec

from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, RequestError
from embedrt.server.models import Options
from embedrt.server.replies import base64_floats, json_items, json_reply, to_json

_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def error(failure: RequestError) -> Reply:
    """A failure as OpenAI's clients read it."""
    status = STATUS[failure.kind]
    content = {
        "message": failure.message,
        "type": {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error"),
        "param": failure.param,
        "code": failure.code,
    }
    headers = {} if failure.retry_after is None else {"retry-after": str(failure.retry_after)}
    return json_reply({"error": content}, status, headers)


DIALECT = Dialect("openai", error)


class EmbeddingsBody(msgspec.Struct):
    """The body of an embeddings request."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


async def embeddings(body: EmbeddingsBody, exchange: Exchange) -> Reply:
    """Embed texts."""
    served, role = exchange.models.find(body.model, exchange, "embed")
    texts = [body.input] if isinstance(body.input, str) else body.input
    found = await served.embed(exchange, texts, Options(role=role), dim=body.dimensions)
    as_text = body.encoding_format == "base64"

    def item(index: int, vector: Any) -> dict[str, Any]:
        return {"object": "embedding", "index": index, "embedding": base64_floats(vector) if as_text else vector}

    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    after = b',"model":' + to_json(served.name) + b',"usage":' + to_json(usage) + b"}"
    return Reply(await json_items(found.values, b'{"object":"list","data":', after, item, width=found.values.shape[1]))


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/embeddings",
        embeddings,
        DIALECT,
        "Embed texts",
        EmbeddingsBody,
        also=("/embeddings", "/openai/v1/embeddings"),
    ),
)

"""Routes of vLLM that OpenAI does not have: scores of pairs, and vectors of tokens."""

import time
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedrt.server.dialects import openai
from embedrt.server.dialects.openai import Usage
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import RequestError
from embedrt.server.formats import embed
from embedrt.server.input_types import input_type_of
from embedrt.server.replies import base64_floats, json_items, to_json
from embedrt.server.served import Options, Served

DIALECT = Dialect("vllm", openai.error)

Texts = str | list[str]


class ScoreRequest(msgspec.Struct, kw_only=True):
    """Pairs of texts to score: one with one, one with several, or each with the one at its place.

    Unknown fields are ignored.

    Attributes:
        model: The model; null takes the first that scores pairs.
        text_1: The first texts.
        text_2: The second texts.
        queries: Another name of `text_1`.
        documents: Another name of `text_2`.
        use_activation: False for the model's logits.
    """

    model: str | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    use_activation: bool | None = None


class Score(msgspec.Struct, kw_only=True):
    """The score of a pair.

    Attributes:
        index: The index of the pair.
        object: "score".
        score: The score.
    """

    index: int
    object: Literal["score"]
    score: float


class ScoreReply(msgspec.Struct, kw_only=True):
    """The scores of a request, in the order of its pairs.

    Attributes:
        id: The id of the request.
        object: "list".
        created: Seconds since 1970.
        model: The name of the model that answered.
        data: One item for each pair.
        usage: Tokens that the model read.
    """

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage


class PoolingRequest(msgspec.Struct, kw_only=True):
    """Texts to embed, as vLLM has it. Unknown fields are ignored.

    Attributes:
        input: One text, or several texts.
        model: The model, or an alias such as "name:query"; null takes the only one.
        task: "token_embed" for a vector of each token, "embed" for one vector; null is what the model is made for.
        encoding_format: "float", or "base64" for float32 in little-endian order, all vectors of a text in a row.
        input_type: "query", "document", or the name of a prompt.
        prompt_name: The model's prompt to put before every text.
    """

    input: Texts
    model: str | None = None
    task: Literal["embed", "token_embed"] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    input_type: str | None = None
    prompt_name: str | None = None


class Pooled(msgspec.Struct, kw_only=True):
    """The vectors of a text.

    Attributes:
        index: The index of the text.
        object: "pooling".
        data: One vector, one vector for each token, or base64.
    """

    index: int
    object: Literal["pooling"]
    data: list[float | list[float]] | str


class PoolingReply(msgspec.Struct, kw_only=True):
    """The vectors of a request, in the order of its texts.

    Attributes:
        id: The id of the request.
        object: "list".
        created: Seconds since 1970.
        model: The name of the model that answered.
        data: One item for each text.
        usage: Tokens that the model read.
    """

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Pooled]
    usage: Usage


async def score(body: ScoreRequest, exchange: Exchange) -> Reply:
    """Score pairs of texts; a model that embeds texts gives their cosine similarity."""
    served, _ = exchange.models.find(body.model, exchange, "score")
    first_name, first = _given(body.text_1, body.queries, "text_1", "queries")
    second_name, second = _given(body.text_2, body.documents, "text_2", "documents")
    if len(first) not in {1, len(second)}:
        raise RequestError(
            f"{first_name}: expected 1 text or as many as {second_name}, {len(second)}, got {len(first)}",
            param=first_name,
        )
    if served.offers("score"):
        scores, tokens = await _scores(served, exchange, first, second, body, second_name)
    else:
        queries = await embed(served, exchange, first, Options("query", param=first_name))
        documents = await embed(served, exchange, second, Options("document", param=second_name))
        scores = np.einsum("ij,ij->i", np.broadcast_to(queries.unit, documents.unit.shape), documents.unit)
        tokens = queries.outcome.tokens + documents.outcome.tokens
    return await _reply(exchange, served, scores, tokens, lambda i, one: {"index": i, "object": "score", "score": one})


async def _scores(
    served: Served, exchange: Exchange, first: list[str], second: list[str], body: ScoreRequest, param: str
) -> tuple[NDArray[np.float32], int]:
    """The scores of a model that reads pairs, and its tokens."""
    if (labels := served.model.manifest.width("scores")) != 1:
        raise RequestError(
            f"the model {served.name!r} has {labels} labels, and a score needs one; POST /predict returns all",
            param="model",
            code="wrong_task",
        )
    firsts = first * len(second) if len(first) == 1 else first
    pairs = list(zip(firsts, second, strict=True))
    outcome = await served.score(exchange, pairs, Options(param=param), raw=body.use_activation is False)
    return outcome.values, outcome.tokens


def _given(one: Texts | None, other: Texts | None, name: str, other_name: str) -> tuple[str, list[str]]:
    """The field that has the texts, and the texts."""
    value, field = (one, name) if one is not None else (other, other_name)
    if value is None:
        raise RequestError(f"{name}: expected a text or several texts, got nothing", param=name)
    texts = [value] if isinstance(value, str) else value
    if not texts:
        raise RequestError(f"{field}: expected at least one text, got an empty list", "empty", param=field)
    return field, texts


async def pooling(body: PoolingRequest, exchange: Exchange) -> Reply:
    """Embed texts: one vector for each token, or one for the text."""
    served, role = exchange.models.find(body.model, exchange)
    chosen = input_type_of(
        served.model.prompts, role=role, named=body.input_type, prompt_name=body.prompt_name, param="input_type"
    )
    options = Options(chosen.role, chosen.prompt_name)
    texts = [body.input] if isinstance(body.input, str) else body.input
    values: Any
    if body.task == "token_embed" or (body.task is None and served.task == "multi-vector"):
        outcome = await served.embed_tokens(exchange, texts, options)
        values, tokens = outcome.values, outcome.tokens
    else:
        embedded = await embed(served, exchange, texts, options)
        values, tokens = embedded.unit, embedded.outcome.tokens
    as_text = body.encoding_format == "base64"

    def item(index: int, vectors: NDArray[np.float32]) -> dict[str, Any]:
        return {"index": index, "object": "pooling", "data": base64_floats(vectors) if as_text else vectors}

    width = max((vectors.size for vectors in values), default=1)
    return await _reply(exchange, served, values, tokens, item, width)


async def _reply(exchange: Exchange, served: Served, values: Any, tokens: int, shape: Any, width: int = 8) -> Reply:
    head = {"id": exchange.request_id, "object": "list", "created": int(time.time()), "model": served.name}
    usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return Reply(
        await json_items(values, to_json(head)[:-1] + b',"data":', b"," + to_json(usage)[1:], shape, width=width)
    )


ENDPOINTS = (
    Endpoint("POST", "/score", score, DIALECT, "Score pairs of texts", ScoreRequest, ScoreReply, also=("/v1/score",)),
    Endpoint("POST", "/pooling", pooling, DIALECT, "Vectors of tokens", PoolingRequest, PoolingReply),
)

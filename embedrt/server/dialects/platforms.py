"""Routes that platforms call, whatever the model does: SageMaker's, Vertex AI's, and the root of TEI's API."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from embedrt.server.decoding import decoded
from embedrt.server.dialects import rerank, tei
from embedrt.server.endpoint import Endpoint, Exchange, Reply
from embedrt.server.errors import RequestError
from embedrt.server.served import check_count
from embedrt.server.settings import Settings
from embedrt.types import Task


class TaskRequest(msgspec.Struct, kw_only=True):
    """A request to the first model's task, or one whose keys say what it is for. Unknown fields are ignored.

    Attributes:
        inputs: Texts, as /embed, /embed_sparse, /embed_all or /predict take them; or an object, as /similarity does.
        parameters: Options of a comparison.
        query: The query of a request as /rerank takes it.
        texts: Texts to rank.
        documents: Documents to rank.
        model: The model; null takes the first that fits.
        truncate: As these routes have it.
        truncation_direction: As these routes have it.
        prompt_name: As these routes have it.
        normalize: As /embed has it.
        dimensions: As /embed has it.
        raw_scores: As /predict and /rerank have it.
        return_text: As /rerank has it.
        top_n: As /rerank has it.
        return_documents: As /rerank has it.
    """

    inputs: Any = None
    parameters: tei.SimilarityParameters | None = None
    query: str | None = None
    texts: list[str] | None = None
    documents: list[Any] | None = None
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: tei.Direction | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    top_n: int | None = None
    return_documents: bool | None = None


class VertexRequest(msgspec.Struct, kw_only=True):
    """Requests to the first model's task, as Vertex AI sends them. Unknown fields are ignored.

    Attributes:
        instances: The requests, each as `POST /` takes it.
    """

    instances: list[msgspec.Raw]


class VertexReply(msgspec.Struct, kw_only=True):
    """The replies to the requests, in their order.

    Attributes:
        predictions: The replies.
    """

    predictions: list[Any]


class _Keys(msgspec.Struct):
    """The keys that tell requests apart."""

    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    query: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model: str | None = None


_Handler = Callable[[Any, Exchange], Awaitable[Reply]]
_BY_TASK: dict[Task, tuple[Any, _Handler]] = {
    "embed": (tei.EmbedRequest, tei.embed),
    "sparse": (tei.TokensRequest, tei.embed_sparse),
    "multi-vector": (tei.TokensRequest, tei.embed_all),
    "score": (tei.PredictRequest, tei.predict),
}


async def by_task(body: msgspec.Raw, exchange: Exchange) -> Reply:
    """Do what the body is for, or else the task of the model."""
    return await _answer(body, exchange, "")


async def vertex(body: VertexRequest, exchange: Exchange) -> Reply:
    """Answer several requests at once."""
    check_count(body.instances, exchange, "instances")
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_answer(one, exchange, f"instances[{i}]")) for i, one in enumerate(body.instances)
            ]
    except ExceptionGroup as failures:  # the first one, which has canceled the others
        raise failures.exceptions[0] from failures
    blocks: list[bytes] = []
    for task in tasks:
        blocks += [b"," if blocks else b'{"predictions":[', *task.result().body]
    return Reply((*blocks, b"]}"))


async def _answer(body: msgspec.Raw, exchange: Exchange, place: str) -> Reply:
    """Answer one request.

    Args:
        body: The request.
        exchange: The exchange.
        place: The place of the request in the body, for messages.
    """
    try:
        return await _dispatched(bytes(body), exchange, place)
    except RequestError as failure:
        if place and not failure.message.startswith(place):
            failure.message = f"{place}: {failure.message}"
            if failure.excess is not None and failure.excess.unit != "items":
                failure.excess = None  # TEI's message for it names no instance
        raise


async def _dispatched(raw: bytes, exchange: Exchange, place: str) -> Reply:
    keys: _Keys = decoded(_Keys, raw, place)
    if keys.query is not msgspec.UNSET:
        endpoint = rerank.endpoint_of(raw)
        return await endpoint.handler(decoded(endpoint.body, raw, place), exchange)
    if keys.inputs is not msgspec.UNSET and bytes(keys.inputs).lstrip().startswith(b"{"):
        return await tei.similarity(decoded(tei.SimilarityRequest, raw, place), exchange)
    served, _ = exchange.models.find(keys.model, exchange)
    kind, handler = _BY_TASK[served.task]
    return await handler(decoded(kind, raw, place), exchange)


_RAW = Endpoint("POST", "/", by_task, tei.DIALECT, "", msgspec.Raw)
_HEALTH = next(one for one in tei.ENDPOINTS if one.path == "/health")
_VERTEX = Endpoint(
    "POST", "/vertex", vertex, tei.DIALECT, "Answer several requests (Vertex AI)", VertexRequest, VertexReply
)
ENDPOINTS = (
    Endpoint(
        "POST",
        "/",
        by_task,
        tei.DIALECT,
        "Do what the model is for",
        TaskRequest,
        list[Any],
        also=("/invocations",),
        choose=lambda _: _RAW,
    ),
    _VERTEX,
)


def routes_of(settings: Settings) -> tuple[Endpoint, ...]:
    """The routes whose paths are settings: those that Vertex AI chooses."""
    named = ((_VERTEX, settings.predict_route), (_HEALTH, settings.health_route))
    return tuple(replace(endpoint, path=path, also=()) for endpoint, path in named if path is not None)

"""Reranking on one path for three APIs, told apart by the keys of the body: TEI, Cohere with its kin, and Weaviate."""

from typing import Any

import msgspec
import numpy as np

from embedrt.inputs.text import Side
from embedrt.server.dialects import tei, weaviate
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, RequestError, headers_of
from embedrt.server.replies import json_items, json_reply, to_json
from embedrt.server.served import Options, Served, Values
from embedrt.tasks.activations import NamedActivation, activate
from embedrt.tasks.rerank import ranked


class Document(msgspec.Struct):
    """A document in an object.

    Attributes:
        text: The text.
    """

    text: str


class TeiRequest(msgspec.Struct, kw_only=True):
    """A query and texts to rank, as TEI has it. Unknown fields are ignored.

    Attributes:
        query: The query.
        texts: The texts.
        truncate: False makes pairs that are too long an error; null takes the server's default.
        truncation_direction: The side on which long pairs are truncated.
        raw_scores: True for the model's logits.
        return_text: True to return the texts.
    """

    query: str
    texts: list[str]
    truncate: bool | None = None
    truncation_direction: tei.Direction | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None


class CohereRequest(msgspec.Struct, kw_only=True):
    """A query and documents to rank, as Cohere, Jina and vLLM have it. Unknown fields are ignored.

    Attributes:
        query: The query: a text, or an object with a text.
        documents: The documents: texts, or objects with a text.
        model: The model; null takes the first that scores pairs.
        top_n: The number of results; null and 0 are all.
        return_documents: True to return the documents.
        truncate: False makes pairs that are too long an error; null takes the server's default.
        rank_fields: The fields of a document that count; there is only "text".
    """

    query: str | Document
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    truncate: bool | None = None
    rank_fields: list[str] | None = None


class WeaviateRequest(msgspec.Struct, kw_only=True):
    """A query and documents to score, as Weaviate has it. Unknown fields are ignored.

    Attributes:
        query: The query.
        documents: The documents.
        property: Has no effect.
    """

    query: str
    documents: list[str]
    property: str | None = None


class RerankRequest(msgspec.Struct, kw_only=True):
    """A query and texts or documents to rank, with the fields of all APIs. Unknown fields are ignored.

    Attributes:
        query: The query: a text, or for Jina an object with a text.
        texts: The texts of a request to TEI; the fields below belong to it.
        raw_scores: True for the model's logits.
        return_text: True to return the texts.
        truncate: False makes pairs that are too long an error; null takes the server's default.
        truncation_direction: The side on which long pairs are truncated.
        documents: The documents of a request to Cohere, Jina or vLLM; the fields below belong to it.
        model: The model; null takes the first that scores pairs.
        top_n: The number of results; null and 0 are all.
        return_documents: True to return the documents.
        rank_fields: The fields of a document that count; there is only "text".
        property: A request with this field and documents is one to Weaviate.
    """

    query: str | Document
    texts: list[str] | msgspec.UnsetType = msgspec.UNSET
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = None
    truncation_direction: tei.Direction | None = None
    documents: list[str | Document] | msgspec.UnsetType = msgspec.UNSET
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    property: str | msgspec.UnsetType | None = msgspec.UNSET


class _Keys(msgspec.Struct):
    """The keys that tell the APIs apart."""

    texts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    property: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Ranked(msgspec.Struct, kw_only=True):
    """A ranked document.

    Attributes:
        index: Its index in the request.
        relevance_score: Its score.
        document: The document, if asked for.
    """

    index: int
    relevance_score: float
    document: Document | msgspec.UnsetType = msgspec.UNSET


class RerankReply(msgspec.Struct, kw_only=True):
    """The documents in the order of their scores, highest first.

    Attributes:
        id: The id of the request.
        model: The name of the model that answered.
        results: The documents.
        usage: Tokens that the model read.
        meta: Facts about the request.
    """

    id: str
    model: str
    results: list[Ranked]
    usage: dict[str, int]
    meta: dict[str, Any]


class TeiRank(msgspec.Struct, kw_only=True):
    """A ranked text.

    Attributes:
        index: Its index in the request.
        score: Its score.
        text: The text, if asked for.
    """

    index: int
    score: float
    text: str | msgspec.UnsetType = msgspec.UNSET


class WeaviateScore(msgspec.Struct, kw_only=True):
    """The score of a document.

    Attributes:
        document: The document.
        score: Its score.
    """

    document: str
    score: float


class WeaviateReply(msgspec.Struct, kw_only=True):
    """The scores of the documents, in the order of the request.

    Attributes:
        query: The query.
        scores: The scores.
        error: null.
    """

    query: str
    scores: list[WeaviateScore]
    error: str | None


def error(failure: RequestError) -> Reply:
    """A failure as the clients of Cohere ("message") and Jina ("detail") read it."""
    content = {"message": failure.message, "detail": failure.message}
    return json_reply(content, STATUS[failure.kind], headers_of(failure))


DIALECT = Dialect("rerank", error)


async def rerank(body: CohereRequest, exchange: Exchange) -> Reply:
    """Rank documents for a query."""
    if body.rank_fields is not None and body.rank_fields != ["text"]:
        raise RequestError("rank_fields: expected ['text'], the only field that is read", param="rank_fields")
    if body.top_n is not None and body.top_n < 0:
        raise RequestError(f"top_n: expected 0 or more, got {body.top_n}", param="top_n")
    query, *documents = [one if isinstance(one, str) else one.text for one in (body.query, *body.documents)]
    served, outcome = await _score(exchange, body.model, query, documents, "documents", truncate=body.truncate)
    results = [
        {
            "index": row["corpus_id"],
            "relevance_score": np.float32(row["score"]),
            **({"document": {"text": row["text"]}} if body.return_documents else {}),
        }
        for row in ranked(outcome.values, body.top_n or None, documents if body.return_documents else None)
    ]
    before = {"id": exchange.request_id, "model": served.name}
    after = {
        "usage": {"prompt_tokens": outcome.tokens, "total_tokens": outcome.tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    blocks = await json_items(results, to_json(before)[:-1] + b',"results":', b"," + to_json(after)[1:], width=16)
    return Reply(blocks)


async def rerank_tei(body: TeiRequest, exchange: Exchange) -> Reply:
    """Rank texts for a query, as TEI does."""
    _, outcome = await _score(
        exchange,
        None,
        body.query,
        body.texts,
        "texts",
        truncate=body.truncate,
        side=tei.side_of(body.truncation_direction),
        raw=True,
    )
    logits = outcome.values
    scores = logits if body.raw_scores else activate(logits[:, None], NamedActivation("Sigmoid"))[:, 0]
    results = [
        {
            "index": row["corpus_id"],
            "score": np.float32(row["score"]),
            **({"text": row["text"]} if body.return_text else {}),
        }
        for row in ranked(scores, None, body.texts if body.return_text else None)
    ]
    return Reply(await json_items(results, b"", b"", width=16))


async def rerank_weaviate(body: WeaviateRequest, exchange: Exchange) -> Reply:
    """Score documents for a query, in the order given, as Weaviate's container does."""
    _, outcome = await _score(exchange, None, body.query, body.documents, "documents")
    scores = [
        {"document": document, "score": score} for document, score in zip(body.documents, outcome.values, strict=True)
    ]
    before = to_json({"query": body.query})[:-1] + b',"scores":'
    return Reply(await json_items(scores, before, b',"error":null}', width=16))


async def _score(
    exchange: Exchange,
    name: str | None,
    query: str,
    documents: list[str],
    param: str,
    *,
    truncate: bool | None = None,
    side: Side | None = None,
    raw: bool = False,
) -> tuple[Served, Values]:
    """The model, and one score for each document."""
    served, _ = exchange.models.find(name, exchange, "score")
    if served.offers("score") and (labels := served.model.manifest.width("scores")) != 1:
        raise RequestError(
            f"the model {served.name!r} has {labels} labels, and ranking needs one; POST /predict returns all scores",
            param="model",
            code="wrong_task",
        )
    if not documents:
        raise RequestError(f"`{param}` cannot be empty", "empty", param=param)
    outcome = await served.score(
        exchange,
        [(query, document) for document in documents],
        Options(truncate=truncate, truncation_side=side, param=param),
        raw=raw,
    )
    return served, outcome


_COHERE = Endpoint("POST", "/v2/rerank", rerank, DIALECT, "Rank documents for a query", CohereRequest, RerankReply)
_TEI = Endpoint("POST", "/rerank", rerank_tei, tei.DIALECT, "Rank texts for a query (TEI)", TeiRequest, list[TeiRank])
_WEAVIATE = Endpoint(
    "POST", "/rerank", rerank_weaviate, weaviate.DIALECT, "Score documents (Weaviate)", WeaviateRequest, WeaviateReply
)


def endpoint_of(body: bytes) -> Endpoint:
    """The endpoint of the API that a body is for, by its keys."""
    try:
        keys = msgspec.json.decode(body, type=_Keys)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _COHERE  # whose decoder has the error
    if keys.texts is not msgspec.UNSET:
        return _TEI
    return _COHERE if keys.property is msgspec.UNSET else _WEAVIATE


ENDPOINTS = (
    Endpoint(
        "POST",
        "/rerank",
        rerank,
        DIALECT,
        "Rank documents for a query",
        RerankRequest,
        RerankReply,
        also=("/v1/rerank", "/v2/rerank", "/openai/v1/rerank", "/v1/re-rank"),
        choose=endpoint_of,
        forms=(_COHERE, _TEI, _WEAVIATE),
    ),
)

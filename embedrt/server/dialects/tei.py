"""The API of Hugging Face's text-embeddings-inference (TEI)."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from embedrt._version import __version__
from embedrt.bundle.check import FileRecord
from embedrt.inputs.text import Side, Tokens
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.errors import STATUS, Excess, Kind, RequestError, headers_of
from embedrt.server.formats import embed as embed_texts
from embedrt.server.input_types import input_type_of
from embedrt.server.replies import json_items, json_reply, to_json
from embedrt.server.served import Options, Role, Served, check_count
from embedrt.server.token_ids import IdRows, read_items, tokens_of_ids
from embedrt.tasks.activations import NamedActivation, activate, softmax
from embedrt.types import Task

_CONFIG = "config.json"
# Seconds after which a model that does not answer counts as broken.
_HEALTH_SECONDS = 10.0
# TEI's statuses and words for kinds of failure; the others have their own status, and count as failed validation.
_STATUS: dict[Kind, tuple[int, str]] = {
    "validation": (422, "Validation"),
    "empty": (400, "Empty"),
    "truncated": (422, "Validation"),
    "tokenizer": (422, "Tokenizer"),
    "backend": (424, "Backend"),
    "overloaded": (429, "Overloaded"),
    "timeout": (503, "Unhealthy"),
    "unhealthy": (503, "Unhealthy"),
}
# What TEI puts before messages about one text.
_ABOUT_TEXT = "Input validation error: "
_MOST_TOKENS = 2**31 - 1
# Characters that /tokenize takes: the reply is a hundred times as long.
_MOST_TOKENIZED = 1 << 20
# Numbers of a vector that are written in the time of a small object.
_OBJECT_COST = 8


def error(failure: RequestError) -> Reply:
    """A failure as TEI's clients read it; a wrong key has no body."""
    if failure.kind == "unauthorized":
        return Reply((), 401, "text/plain", {"www-authenticate": "Bearer"})
    status, name = _STATUS.get(failure.kind, (STATUS[failure.kind], "Validation"))
    if failure.code == "invalid_json":
        status = 400
    if failure.code == "wrong_task":
        status, name = 424, "Backend"
    message, excess = failure.message, failure.excess
    if excess is not None and excess.unit == "items":
        status, message = 422, f"batch size {excess.given} > maximum allowed batch size {excess.most}"
    elif excess is not None:
        where = "" if failure.index is None else f" ({failure.param}[{failure.index}])"
        message = f"{_ABOUT_TEXT}`inputs` must have less than {excess.most} {excess.unit}. Given: {excess.given}{where}"
    return json_reply({"error": message, "error_type": name}, status, headers_of(failure))


DIALECT = Dialect("tei", error, timings=True)

Direction = Literal["Left", "left", "Right", "right"]
_SIDES: dict[Direction, Side] = {"Left": "left", "left": "left", "Right": "right", "right": "right"}
Inputs = str | list[str | int | list[int]]
"""One text, several texts, one row of token ids, or several rows."""


class TokensRequest(msgspec.Struct, kw_only=True):
    """Texts for vectors of their tokens, or for sparse vectors. Unknown fields are ignored.

    Attributes:
        inputs: One text, several texts, or token ids.
        truncate: False makes texts that are too long an error; null takes the server's default.
        truncation_direction: The side of a text that truncation removes.
        prompt_name: The model's prompt to put before every text.
        model: The model, or an alias such as "name:query"; null takes the first of the task. TEI has no such field.
    """

    inputs: Inputs
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None
    model: str | None = None


class EmbedRequest(TokensRequest, kw_only=True):
    """Texts to embed. Unknown fields are ignored.

    Attributes:
        inputs: One text, several texts, or token ids.
        truncate: False makes texts that are too long an error; null takes the server's default.
        truncation_direction: The side of a text that truncation removes.
        prompt_name: The model's prompt to put before every text.
        model: The model, or an alias such as "name:query"; null takes the first of the task. TEI has no such field.
        normalize: Scale the vectors to length 1; null does it.
        dimensions: Coordinates to keep; vectors are truncated to them before they are scaled.
    """

    normalize: bool | None = None
    dimensions: int | None = None


class PredictRequest(msgspec.Struct, kw_only=True):
    """Texts or pairs of texts to classify. Unknown fields are ignored.

    Attributes:
        inputs: One text; one pair, as a list of two texts; or a list of lists with one or two texts.
        truncate: False makes texts that are too long an error; null takes the server's default.
        truncation_direction: The side of a text that truncation removes.
        raw_scores: True for the model's logits.
        model: The model; null takes the first that scores pairs. TEI has no such field.
    """

    inputs: str | list[str | list[str]]
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    raw_scores: bool | None = None
    model: str | None = None


class SimilarityInputs(msgspec.Struct, kw_only=True):
    """A text and those to compare it with.

    Attributes:
        source_sentence: The text.
        sentences: The others.
    """

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(msgspec.Struct, kw_only=True):
    """Options of a comparison. Unknown fields are ignored.

    Attributes:
        truncate: False makes texts that are too long an error; null takes the server's default.
        truncation_direction: The side of a text that truncation removes.
        prompt_name: The model's prompt to put before every text.
    """

    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class SimilarityRequest(msgspec.Struct, kw_only=True):
    """Texts to compare. Unknown fields are ignored.

    Attributes:
        inputs: The texts.
        parameters: Options.
        model: The model, or an alias; null takes the first with sentence embeddings. TEI has no such field.
    """

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
    model: str | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Texts to tokenize, without truncation. Unknown fields are ignored.

    Attributes:
        inputs: One text, or several.
        add_special_tokens: True to add the model's special tokens; null does it.
        prompt_name: The model's prompt to put before every text.
        model: The model; null takes the first. TEI has no such field.
    """

    inputs: str | list[str]
    add_special_tokens: bool | None = None
    prompt_name: str | None = None
    model: str | None = None


class DecodeRequest(msgspec.Struct, kw_only=True):
    """Token ids to decode. Unknown fields are ignored.

    Attributes:
        ids: One row of token ids, or several.
        skip_special_tokens: True to leave out special tokens; null does it.
        model: The model; null takes the first. TEI has no such field.
    """

    ids: list[int | list[int]]
    skip_special_tokens: bool | None = None
    model: str | None = None


class Prediction(msgspec.Struct, kw_only=True):
    """The score of a label.

    Attributes:
        score: The score.
        label: The name of the label.
    """

    score: float
    label: str


class SparseValue(msgspec.Struct, kw_only=True):
    """A weight of a sparse vector.

    Attributes:
        index: The id of the token.
        value: Its weight.
    """

    index: int
    value: float


class SimpleToken(msgspec.Struct, kw_only=True):
    """A token.

    Attributes:
        id: Its id.
        text: Its part of the text; for a special token, its name.
        special: True for a special token.
        start: Where it starts, in bytes of UTF-8 from the start of the prompt; null for a special token.
        stop: Where it ends.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(msgspec.Struct, kw_only=True):
    """Facts about a model and the server.

    Attributes:
        model_id: The name of the bundle.
        model_sha: The commit of the hub repo that the model came from.
        model_dtype: The dtype in use.
        served_model_name: The name that clients use.
        model_type: "embedding", "reranker" or "classifier", with details.
        max_concurrent_requests: Requests that wait or run at the same time.
        max_input_length: Tokens that the model reads of a text.
        max_batch_tokens: The token budget of a batch.
        max_batch_requests: null: batches are planned by tokens.
        max_client_batch_size: Texts of a request.
        auto_truncate: Whether texts that are too long are truncated if a request does not decide.
        tokenization_workers: Threads that tokenize.
        version: The version of embedrt.
        sha: null.
        docker_label: null.
        fingerprint: The fingerprint of the vector space: vectors of equal fingerprints may share an index. TEI has no
            such field.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None
    fingerprint: str


async def embed(body: EmbedRequest, exchange: Exchange) -> Reply:
    """Embed texts."""
    served, role = exchange.models.find(body.model, exchange, "embed")
    if body.dimensions is not None and body.dimensions < 1:
        raise RequestError(_ABOUT_TEXT + "`dimensions` should be positive", param="dimensions")
    with _naming(_all(body.inputs)):
        options = _options(served, role, body)
        items = _items(served, exchange, body.inputs, options)
        found = await embed_texts(
            served, exchange, items, options, dim=body.dimensions, normalize=body.normalize is not False
        )
    rows = found.rows("float")
    return Reply(await json_items(rows, b"", b"", width=rows.shape[1]))


async def embed_all(body: TokensRequest, exchange: Exchange) -> Reply:
    """Embed the tokens of texts."""
    served, role = exchange.models.find(body.model, exchange, _task_of_tokens(exchange))
    with _naming(_all(body.inputs)):
        options = _options(served, role, body)
        found = await served.embed_tokens(exchange, _texts(served, exchange, body.inputs), options)
    widest = max(array.size for array in found.values)
    return Reply(await json_items([np.ascontiguousarray(array) for array in found.values], b"", b"", width=widest))


def _task_of_tokens(exchange: Exchange) -> Task:
    """The task of a route that several do: embeddings, unless there are only multi-vector models."""
    return "embed" if any(one.offers("embed") for one in exchange.models.served) else "multi-vector"


async def embed_sparse(body: TokensRequest, exchange: Exchange) -> Reply:
    """Embed texts as sparse vectors."""
    served, role = exchange.models.find(body.model, exchange, "sparse")
    with _naming(_all(body.inputs)):
        options = _options(served, role, body)
        found = await served.embed_sparse(exchange, _texts(served, exchange, body.inputs), options)
    rows = found.values

    def row(index: int, _: Any) -> list[dict[str, Any]]:
        start, end = rows.indptr[index], rows.indptr[index + 1]
        return [
            {"index": number, "value": value}
            for number, value in zip(rows.indices[start:end].tolist(), rows.values[start:end], strict=True)
        ]

    weights = len(rows.values) // max(1, rows.rows)
    return Reply(await json_items(range(rows.rows), b"", b"", row, width=_OBJECT_COST * max(1, weights)))


async def predict(body: PredictRequest, exchange: Exchange) -> Reply:
    """Classify texts or pairs of texts."""
    served, _ = exchange.models.find(body.model, exchange, "score")
    items, is_batch = _sequences(body.inputs)
    options = Options(truncate=body.truncate, truncation_side=side_of(body.truncation_direction), param="inputs")
    if not items:
        raise RequestError("`inputs` cannot be empty", "empty", param="inputs")
    names = labels_of(served) if served.offers("score") else ()
    scores = np.empty((len(items), len(names)), np.float32)
    for kind in (str, tuple):
        rows = [i for i, item in enumerate(items) if isinstance(item, kind)]
        if rows:
            with _naming(rows if is_batch else None):
                found = await served.score(exchange, [items[i] for i in rows], options, raw=True)
            scores[rows] = _scaled(found.values, raw=body.raw_scores is True)
    order = np.argsort(-scores, axis=1, kind="stable")

    def predictions(index: int, _: Any) -> list[dict[str, Any]]:
        return [{"score": scores[index, label], "label": names[label]} for label in order[index].tolist()]

    if not is_batch:
        return json_reply(predictions(0, None))
    return Reply(await json_items(range(len(items)), b"", b"", predictions, width=_OBJECT_COST * len(names)))


def _sequences(inputs: str | list[str | list[str]]) -> tuple[list[str | tuple[str, str]], bool]:
    """The texts and pairs of a request, and whether they are a batch: `["a", "b"]` is one pair."""
    if isinstance(inputs, str):
        return [inputs], False
    if inputs and isinstance(inputs[0], str):
        return [_sequence(inputs, "inputs")], False
    return [_sequence(one, f"inputs[{i}]") for i, one in enumerate(inputs)], True


def _sequence(texts: str | Sequence[str | list[str]], name: str) -> str | tuple[str, str]:
    """One text, or a pair."""
    match texts:
        case [str(text)]:
            return text
        case [str(first), str(second)]:
            return first, second
    found = "a text" if isinstance(texts, str) else f"{len(texts)} items"
    raise RequestError(f"{name}: expected a list with one text or two, got {found}", param="inputs")


def _scaled(logits: Any, *, raw: bool) -> Any:
    """Scores `[items, labels]`: a sigmoid for one label, a softmax for several."""
    rows = logits.reshape(len(logits), -1)
    if raw:
        return rows
    return activate(rows, NamedActivation("Sigmoid")) if rows.shape[1] == 1 else softmax(rows)


async def similarity(body: SimilarityRequest, exchange: Exchange) -> Reply:
    """Compare a text with others by cosine similarity."""
    served, role = exchange.models.find(body.model, exchange, "embed")
    texts = body.inputs.sentences
    if not texts:
        raise RequestError("`inputs.sentences` cannot be empty", "empty", param="inputs.sentences")
    options = _options(served, role, body.parameters or SimilarityParameters())
    found = await embed_texts(served, exchange, [body.inputs.source_sentence, *texts], options)
    vectors = found.unit.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors[1:] @ vectors[0] / np.maximum(norms[1:] * norms[0], np.finfo(np.float64).tiny)
    return json_reply(cosines.astype(np.float32))


async def tokenize(body: TokenizeRequest, exchange: Exchange) -> Reply:
    """Tokenize texts, without truncation."""
    served, role = exchange.models.find(body.model, exchange)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    check_count(texts, exchange, "inputs")
    options = _options(served, role, body)
    prompt = served.prompt(options) if body.prompt_name is not None else ""
    special = body.add_special_tokens is not False
    given = sum(map(len, texts))
    if given > _MOST_TOKENIZED:
        raise RequestError(
            f"inputs: expected at most {_MOST_TOKENIZED} characters in all, got {given}; send fewer texts",
            param="inputs",
            excess=Excess(given, _MOST_TOKENIZED, "characters"),
        )
    return Reply(await asyncio.to_thread(_tokenized, served, [prompt + text for text in texts], options, special))


def _tokenized(served: Served, texts: list[str], options: Options, special: bool) -> tuple[bytes, ...]:
    """The reply with the tokens of texts; a text at a time, as its tokens take much memory before they are JSON."""
    tokenizer = served.tokenizer(options)[0].tokenizer(None)
    blocks = [
        to_json(
            [
                {"id": number, "text": name, "special": True, "start": None, "stop": None}
                if is_special
                else {"id": number, "text": part, "special": False, "start": start, "stop": stop}
                for number, name, is_special, part, start, stop in _tokens(tokenizer, text, special=special)
            ]
        )
        for text in texts
    ]
    return (b"[" + b",".join(blocks) + b"]",)


def _tokens(tokenizer: Any, text: str, *, special: bool) -> Iterator[tuple[int, str, bool, str, int, int]]:
    """The tokens of a text: id, name, whether it is special, its part of the text, and its span in bytes."""
    encoding = tokenizer.encoding(text, special_tokens=special)
    starts = None if text.isascii() else [*accumulate((len(c.encode()) for c in text), initial=0)]
    for number, name, mask, (start, stop) in zip(
        encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
    ):
        at = (start, stop) if starts is None else (starts[start], starts[stop])
        yield number, name, mask == 1, text[start:stop], *at


async def decode(body: DecodeRequest, exchange: Exchange) -> Reply:
    """Decode token ids."""
    served, role = exchange.models.find(body.model, exchange)
    check_count(body.ids if body.ids and isinstance(body.ids[0], list) else body.ids[:1], exchange, "ids")
    rows = read_items(body.ids, "model", None, "ids")
    if not isinstance(rows, IdRows):
        raise TypeError(f"ids: expected rows of token ids, got {type(rows).__name__}")
    runner, tokenizer = served.tokenizer(Options(role=role, param="ids"))
    tokens_of_ids(rows, runner, None, "ids")
    skip = body.skip_special_tokens is not False
    decode_all = partial(tokenizer.backend.decode_batch, rows.rows, skip_special_tokens=skip)
    return json_reply(await asyncio.to_thread(decode_all))


async def info(_: None, exchange: Exchange) -> Reply:
    """Describe the first model, and the server."""
    served = exchange.models.served[0]
    exchange.notes.model = served.name
    manifest, limits = served.model.manifest, exchange.settings.limits
    runner = next(iter(served.model.runners.values()))
    facts = Info(
        model_id=manifest.name,
        model_sha=manifest.source.revision,
        model_dtype=served.model.dtype,
        served_model_name=served.name,
        model_type=_model_type(served),
        max_concurrent_requests=limits.requests,
        max_input_length=served.model.max_seq_length or _MOST_TOKENS,
        max_batch_tokens=runner.token_budget,
        max_batch_requests=None,
        max_client_batch_size=limits.request_texts,
        auto_truncate=served.settings.auto_truncate,
        tokenization_workers=runner.placement.threads,
        version=__version__,
        sha=None,
        docker_label=None,
        fingerprint=served.model.fingerprint,
    )
    return Reply((msgspec.json.encode(facts),))


def _model_type(served: Served) -> dict[str, Any]:
    if served.task == "score":
        names = labels_of(served)
        labels = {
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }
        return {"reranker" if len(names) == 1 else "classifier": labels}
    return {"embedding": {"pooling": served.pooling}}


def labels_of(served: Served) -> tuple[str, ...]:
    """The names of a classifier's labels, from the config of its bundle."""
    manifest = served.model.manifest
    return _labels(served.model.folder, manifest.files.get(_CONFIG), manifest.width("scores"))


@lru_cache(64)
def _labels(folder: Path, record: FileRecord | None, count: int) -> tuple[str, ...]:
    try:
        content = {} if record is None else json.loads((folder / _CONFIG).read_bytes())
        names = tuple(content["id2label"][str(i)] for i in range(count))
    except (OSError, ValueError, KeyError, TypeError):
        return tuple(f"LABEL_{i}" for i in range(count))
    return tuple(name if isinstance(name, str) else f"LABEL_{i}" for i, name in enumerate(names))


async def health(_: None, exchange: Exchange) -> Reply:
    """Run every model on a short text."""
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            await asyncio.gather(*(served.check() for served in exchange.models.served))
    except (RequestError, TimeoutError) as failure:
        raise RequestError("unhealthy", "unhealthy") from failure
    return Reply(media_type="text/plain")


# Parts of requests.


def side_of(direction: Direction | None) -> Side | None:
    """The side of a text that truncation removes; None takes the tokenizer's."""
    return None if direction is None else _SIDES[direction]


def _options(
    served: Served, role: Role | None, body: TokensRequest | SimilarityParameters | TokenizeRequest
) -> Options:
    chosen = input_type_of(served.model.prompts, role=role, prompt_name=body.prompt_name)
    if isinstance(body, TokenizeRequest):
        return Options(chosen.role, chosen.prompt_name, param="inputs")
    return Options(
        chosen.role,
        chosen.prompt_name,
        truncate=body.truncate,
        truncation_side=side_of(body.truncation_direction),
        param="inputs",
    )


def _items(served: Served, exchange: Exchange, inputs: Inputs, options: Options) -> list[str] | Tokens:
    """The texts of a request, or the token ids that the server takes in their place."""
    items = _read(served, exchange, inputs)
    if not isinstance(items, IdRows):
        return items
    runner, tokenizer = served.tokenizer(options)
    return tokens_of_ids(items, runner, tokenizer.max_seq_length, "inputs")


def _texts(served: Served, exchange: Exchange, inputs: Inputs) -> list[str]:
    items = _read(served, exchange, inputs)
    if isinstance(items, IdRows):
        raise RequestError("inputs: expected texts, got token ids; send them to /embed", param="inputs")
    return items


def _read(served: Served, exchange: Exchange, inputs: Inputs) -> list[str] | IdRows:
    if isinstance(inputs, list) and not inputs:
        raise RequestError("`inputs` cannot be empty", "empty", param="inputs")
    return read_items(inputs, served.settings.token_ids, exchange.models.vocabulary, "inputs")


@contextmanager
def _naming(rows: Sequence[int] | None) -> Iterator[None]:
    """A block whose failures name an item of the request.

    Args:
        rows: The indexes of the items in the request; None if the request has one item, which is no list.
    """
    try:
        yield
    except RequestError as failure:
        if failure.index is not None:
            failure.index = None if rows is None else rows[failure.index]
        raise


def _all(inputs: Inputs) -> Sequence[int] | None:
    """The indexes of the items of a request, for `_naming`."""
    return None if isinstance(inputs, str) else range(len(inputs))


_VECTORS = list[list[float]]
ENDPOINTS = (
    Endpoint("POST", "/embed", embed, DIALECT, "Embed texts", EmbedRequest, _VECTORS),
    Endpoint("POST", "/embed_all", embed_all, DIALECT, "Embed the tokens of texts", TokensRequest, list[_VECTORS]),
    Endpoint(
        "POST",
        "/embed_sparse",
        embed_sparse,
        DIALECT,
        "Embed texts as sparse vectors",
        TokensRequest,
        list[list[SparseValue]],
    ),
    Endpoint(
        "POST",
        "/predict",
        predict,
        DIALECT,
        "Classify texts or pairs of texts",
        PredictRequest,
        list[Prediction | list[Prediction]],
    ),
    Endpoint("POST", "/similarity", similarity, DIALECT, "Compare texts", SimilarityRequest, list[float]),
    Endpoint("POST", "/tokenize", tokenize, DIALECT, "Tokenize texts", TokenizeRequest, list[list[SimpleToken]]),
    Endpoint("POST", "/decode", decode, DIALECT, "Decode token ids", DecodeRequest, list[str]),
    Endpoint("GET", "/info", info, DIALECT, "Describe the first model", None, Info),
    Endpoint(
        "GET", "/health", health, DIALECT, "Run every model on a short text", public=True, also=("/ping",), probe=True
    ),
)

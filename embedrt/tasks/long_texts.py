"""Texts that are longer than the model reads: split into windows, or read once and pooled by passages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from embedrt.bundle.manifest import Route
from embedrt.inputs.text import Reading, Tokens, check_texts
from embedrt.run.runner import SENTENCE, TOKENS, Request, Runner, finished
from embedrt.tasks.arguments import length_for, one_of, passages
from embedrt.tasks.call import Call, Model, call_for
from embedrt.types import Texts, Vectors

Combine = Literal["mean", "max", "none"]

Span = tuple[int, int]

# Texts whose windows are in memory at a time.
_SLICE = 1024


def encode_long(
    model: Model,
    texts: Texts,
    max_tokens: int | None = None,
    overlap: int = 0,
    combine: Combine = "mean",
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    *,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    task: str | None = None,
) -> Vectors | list[Vectors]:
    """Encode texts of any length; see `Embedder.encode_long`."""
    items, single = check_texts(texts)
    one_of(combine, Combine, "combine")
    call = call_for(
        model, prompt_name, prompt, batch_size, SENTENCE, None, normalize_embeddings, truncate_dim, None, task, "ignore"
    )
    request = _windowed(model, call, max_tokens, overlap)
    found = encode_windows(model.runners[call.route], items, request, overlap=overlap, combine=combine)
    if single:
        return found[0]
    return found if combine == "none" else np.array(found, np.float32).reshape(len(items), request.dim)


def windows(
    model: Model,
    texts: Texts,
    max_tokens: int | None = None,
    overlap: int = 0,
    prompt_name: str | None = None,
    prompt: str | None = None,
    *,
    task: str | None = None,
) -> list[Span] | list[list[Span]]:
    """The windows that `encode_long` cuts texts into; see `Embedder.windows`."""
    items, single = check_texts(texts)
    call = call_for(model, prompt_name, prompt, 1, SENTENCE, None, False, None, None, task, "ignore")
    request = _windowed(model, call, max_tokens, overlap)
    cut = split(model.runners[call.route], items, request, overlap=overlap)
    found: list[list[Span]] = [[] for _ in items]
    for owner, span in zip(cut.owners, cut.spans, strict=True):
        found[owner].append(span)
    return found[0] if single else found


def encode_chunks(
    model: Model,
    text: str,
    spans: Iterable[Span],
    prompt_name: str | None = None,
    prompt: str | None = None,
    *,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    task: str | None = None,
) -> Vectors:
    """One vector for each passage of a text; see `Embedder.encode_chunks`."""
    check_texts([text], "text")
    call = call_for(
        model, prompt_name, prompt, 1, TOKENS, None, normalize_embeddings, truncate_dim, None, task, "error"
    )
    runner = model.runners[call.route]
    require_mean_pooling(runner.route)
    return encode_spans(runner, text, passages(spans, text), call.request)


def _windowed(model: Model, call: Call, max_tokens: int | None, overlap: int) -> Request:
    if max_tokens is not None:
        length = length_for(model.runners[call.route], max_tokens, "max_tokens")
        call = replace(call, request=replace(call.request, max_seq_length=length))
    if type(overlap) is not int or overlap < 0:
        raise ValueError(f"overlap: expected 0 or more, got {overlap!r}")
    return call.request


@dataclass(frozen=True)
class Windows:
    """Texts cut into windows that the model can read.

    Attributes:
        tokens: The token ids of every window, each with the special tokens and the prompt.
        owners: For every window the index of its text.
        spans: For every window the characters of its text, from and to.
        weights: For every window how many tokens of its text are in it.
    """

    tokens: Tokens
    owners: list[int]
    spans: list[Span]
    weights: list[int]


def encode_windows(
    runner: Runner, texts: list[str], request: Request, *, overlap: int, combine: Combine
) -> list[Vectors]:
    """The vectors of texts of any length.

    Args:
        runner: The route.
        texts: The texts.
        request: What is wanted; its `max_seq_length` is the length of a window.
        overlap: Tokens that a window shares with the one before.
        combine: "mean" of a text's windows, weighted by their tokens; "max" in every coordinate; or "none".

    Returns:
        For every text `[dim]`, or with "none" `[windows, dim]`.
    """
    found: list[Vectors] = []
    raw = replace(request, dim=runner.dim, normalize_embeddings=False)
    for start in range(0, len(texts), _SLICE):
        part = texts[start : start + _SLICE]
        cut = split(runner, part, request, overlap=overlap)
        values: Any = runner.answer_tokens(cut.tokens, [start + i for i in cut.owners], raw).values
        weights = np.asarray(cut.weights, np.float32)
        for first, end in pairwise(np.searchsorted(cut.owners, range(len(part) + 1))):
            vectors: Vectors = values[first:end]
            if combine != "none":
                vectors = vectors[0] if end - first == 1 else _combined(vectors, weights[first:end], combine)
                if runner.route.normalized and end - first > 1:
                    vectors = finished(vectors, runner.dim, normalize=True)
            found.append(finished(vectors, request.dim, normalize=request.normalize_embeddings))
    return found


def _combined(vectors: Vectors, weights: Vectors, combine: Combine) -> Vectors:
    one: Vectors = vectors.max(axis=0) if combine == "max" else weights @ vectors / weights.sum()
    return one


def split(runner: Runner, texts: list[str], request: Request, *, overlap: int) -> Windows:
    """Cuts texts at token boundaries into windows of at most `max_seq_length` tokens; what fits is one window.

    Raises:
        ValueError: The prompt leaves no room for text, or the overlap no room to go on.
    """
    prompt, length = request.prompt, request.max_seq_length
    whole = runner.tokenizer(None)
    if length is not None:
        _room(length, len(whole([prompt]).ids[0]), overlap)  # before any work
    tokens = runner.tokenizer(length)([prompt + text for text in texts])
    ids: list[list[int]] = []
    type_ids: list[list[int]] = []
    owners: list[int] = []
    spans: list[Span] = []
    weights: list[int] = []
    is_long = set(tokens.truncated)
    for i, text in enumerate(texts):
        if i not in is_long:
            ids.append(tokens.ids[i])
            type_ids.append([] if tokens.type_ids is None else tokens.type_ids[i])
            owners.append(i)
            spans.append((0, len(text)))
            weights.append(len(tokens.ids[i]))
            continue
        reading = whole.read(prompt + text)
        for places, body in _windows(reading, len(prompt), length or 0, overlap):
            ids.append([reading.ids[place] for place in places])
            type_ids.append([reading.type_ids[place] for place in places])
            owners.append(i)
            spans.append((reading.spans[body[0]][0] - len(prompt), reading.spans[body[-1]][1] - len(prompt)))
            weights.append(len(body))
    return Windows(Tokens(ids, None if tokens.type_ids is None else type_ids, []), owners, spans, weights)


def _room(length: int, others: int, overlap: int) -> int:
    """Tokens of text in a window of so many, beside the others, if that lets windows go on."""
    room = length - others
    if room < 1:
        raise ValueError(f"max_tokens: {length} leaves no room for text beside {others} tokens of prompt and model")
    if overlap >= room:
        raise ValueError(f"overlap: expected 0 to {room - 1}, as a window has {room} tokens of text, got {overlap}")
    return room


def _windows(reading: Reading, prompt: int, length: int, overlap: int) -> list[tuple[list[int], range]]:
    """The places of the tokens of each window, and those of them that are of the text.

    Args:
        reading: The tokens of prompt and text.
        prompt: Characters of the prompt.
        length: Tokens of a window.
        overlap: Tokens that a window shares with the one before.
    """
    text = [place for place, span in enumerate(reading.spans) if not reading.special[place] and span[1] > prompt]
    first, end = text[0], text[-1] + 1
    head, tail = list(range(first)), list(range(end, len(reading.ids)))
    room = _room(length, len(head) + len(tail), overlap)
    starts = range(first, max(first + 1, end - overlap), room - overlap)
    bodies = [range(start, min(start + room, end)) for start in starts]
    return [([*head, *body, *tail], body) for body in bodies]


def _first_character(text: str, start: int) -> int:
    """Where a token begins, without the white space that some tokenizers count to the word after it."""
    while 0 <= start < len(text) and text[start].isspace():
        start += 1
    return start


def require_mean_pooling(route: Route) -> None:
    """Late chunking averages tokens, which is right only where the model does the same.

    Raises:
        ValueError: The vectors of the route are something else than the mean of its token embeddings.
    """
    kinds = [module.type for module in route.modules]
    modes = [tuple(module.settings["pooling_mode"]) for module in route.modules if module.type == "Pooling"]
    after = set(kinds[kinds.index("Pooling") + 1 :]) if "Pooling" in kinds else set()
    if modes != [("mean",)] or not after <= {"Normalize", "Dropout"}:
        shown = " > ".join(kinds)
        raise ValueError(
            f"encode_chunks needs a model whose vector is the mean of its token embeddings; this one is {shown}"
            + (f" with pooling {', '.join(modes[0])}" if modes else "")
        )


def encode_spans(runner: Runner, text: str, spans: Sequence[Span], request: Request) -> Vectors:
    """Late chunking: the text is read once, and the tokens of each passage are averaged.

    Args:
        runner: The route; `require_mean_pooling` holds for it.
        text: The text.
        spans: Its passages, in characters from and to.
        request: What is wanted.

    Returns:
        float32 `[len(spans), dim]`.

    Raises:
        ValueError: A passage has no token.
        TruncationError: The text is longer than the model reads.
    """
    reading = runner.tokenizer(request.max_seq_length).read(request.prompt + text)
    features: Any = runner.answer([text], request).values
    tokens = features[0][TOKENS]
    starts = np.array([_first_character(text, span[0] - len(request.prompt)) for span in reading.spans])
    is_text = np.array(reading.special) == 0
    vectors = np.empty((len(spans), tokens.shape[1]), np.float32)
    for i, (start, end) in enumerate(spans):
        inside = is_text & (starts >= start) & (starts < end)
        if not inside.any():
            raise ValueError(f"spans[{i}]: no token begins in characters {start} to {end}: {text[start:end][:40]!r}")
        vectors[i] = tokens[inside].mean(axis=0, dtype=np.float64)
    if runner.route.normalized:
        vectors = finished(vectors, runner.dim, normalize=True)
    return finished(vectors, request.dim, normalize=request.normalize_embeddings)

"""Long texts: split into windows, or encoded once and pooled per passage (late chunking)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np

from embedrt.bundle.manifest import Route
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import integer, one_of, shown
from embedrt.inputs.windows import Span, Windows, split
from embedrt.run.runner import Runner
from embedrt.tasks.arguments import length_for, passages
from embedrt.tasks.call import Call
from embedrt.tasks.embed import request_of, truncate_and_normalize
from embedrt.types import SENTENCE, Texts, Vectors

Combine = Literal["mean", "max", "none"]

# Texts whose windows are held in memory at a time.
_SLICE = 1024


def encode_long(
    runner: Runner, texts: Texts, call: Call, *, max_tokens: int | None, overlap: int, combine: Combine
) -> Vectors | list[Vectors]:
    """Encode texts of any length; `Embedder.encode_long` documents the arguments."""
    items, single = check_texts(texts)
    combine = one_of(combine, Combine, "combine")
    call, overlap = _with_window(runner, call, max_tokens, overlap)
    found = encode_windows(runner, items, call, overlap=overlap, combine=combine)
    if single:
        return found[0]
    return found if combine == "none" else np.array(found, np.float32).reshape(len(items), call.dim)


def windows(
    runner: Runner, texts: Texts, call: Call, *, max_tokens: int | None, overlap: int
) -> list[Span] | list[list[Span]]:
    """The windows of `encode_long`, in characters of each text."""
    items, single = check_texts(texts)
    call, overlap = _with_window(runner, call, max_tokens, overlap)
    parts = _split(runner, items, call, overlap)
    found: list[list[Span]] = [[] for _ in items]
    for owner, span in zip(parts.owners, parts.spans, strict=True):
        found[owner].append(span)
    return found[0] if single else found


def encode_chunks(runner: Runner, text: str, spans: Iterable[Span], call: Call) -> Vectors:
    """Encode the passages of a text by late chunking; `Embedder.encode_chunks` documents the arguments."""
    if not isinstance(text, str):
        raise TypeError(f"text: expected str, got {type(text).__name__}")
    text = check_texts(text, "text")[0][0]
    require_mean_pooling(runner.route)
    return encode_spans(runner, text, passages(spans, text), call)


def _with_window(runner: Runner, call: Call, max_tokens: int | None, overlap: int) -> tuple[Call, int]:
    if max_tokens is not None:
        call = replace(call, max_seq_length=length_for(runner, max_tokens, "max_tokens"))
    number = integer(overlap)
    if number is None or number < 0:
        raise ValueError(f"overlap: expected 0 or more, got {shown(overlap)}")
    return call, number


def encode_windows(runner: Runner, texts: list[str], call: Call, *, overlap: int, combine: Combine) -> list[Vectors]:
    """Encode texts of any length window by window.

    Args:
        runner: The route.
        texts: The texts.
        call: The call; its `max_seq_length` is the length of a window.
        overlap: Tokens that consecutive windows share.
        combine: "mean" of a text's windows, weighted by their tokens; "max" per coordinate; or "none".

    Returns:
        float32 `[dim]` per text, or `[windows, dim]` with "none".
    """
    found: list[Vectors] = []
    width = runner.widths[SENTENCE]
    raw = request_of(replace(call, dim=width, normalize=False))
    for start in range(0, len(texts), _SLICE):
        part = texts[start : start + _SLICE]
        windows = _split(runner, part, call, overlap)
        values: Vectors = runner.run(windows.tokens, raw, indexes=[start + i for i in windows.owners]).values
        weights = np.asarray(windows.weights, np.float32)
        for first, end in pairwise(np.searchsorted(windows.owners, range(len(part) + 1))):
            vectors: Vectors = values[first:end]
            if combine != "none":
                vectors = vectors[0] if end - first == 1 else _combine(vectors, weights[first:end], combine)
                if runner.route.normalized and end - first > 1:
                    vectors = truncate_and_normalize(vectors, width, normalize=True)
            found.append(truncate_and_normalize(vectors, call.dim, normalize=call.normalize))
    return found


def _combine(vectors: Vectors, weights: Vectors, combine: Combine) -> Vectors:
    one: Vectors = vectors.max(axis=0) if combine == "max" else weights @ vectors / weights.sum()
    return one


def _split(runner: Runner, texts: list[str], call: Call, overlap: int) -> Windows:
    whole, window = runner.tokenizer(None), runner.tokenizer(call.max_seq_length)
    return split(texts, call.prompt, whole=whole, window=window, overlap=overlap)


def _first_character(text: str, start: int) -> int:
    """The start of a token without leading white space, which some tokenizers count as part of it."""
    while 0 <= start < len(text) and text[start].isspace():
        start += 1
    return start


def require_mean_pooling(route: Route) -> None:
    """Check that a route pools by the mean, as late chunking does.

    Raises:
        ValueError: The vectors of the route are not the mean of its token embeddings.
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


def encode_spans(runner: Runner, text: str, spans: Sequence[Span], call: Call) -> Vectors:
    """Encode a text once, and average the token embeddings of each passage (late chunking).

    Args:
        runner: The route, checked by `require_mean_pooling`.
        text: The text.
        spans: The character spans (start, end) of the passages.
        call: The call.

    Returns:
        float32 `[len(spans), dim]`.

    Raises:
        ValueError: No token begins in a passage.
        TruncationError: The text is longer than the model reads.
    """
    tokenized = runner.tokenizer(call.max_seq_length).with_spans(call.prompt + text)
    (tokens,) = runner.run(tokenized.tokens, request_of(call)).values
    starts = np.array([_first_character(text, start - len(call.prompt)) for start in tokenized.spans[:, 0].tolist()])
    vectors = np.empty((len(spans), tokens.shape[1]), np.float32)
    for i, (start, end) in enumerate(spans):
        inside = ~tokenized.special & (starts >= start) & (starts < end)
        if not inside.any():
            raise ValueError(f"spans[{i}]: no token begins in characters {start} to {end}: {text[start:end][:40]!r}")
        vectors[i] = tokens[inside].mean(axis=0, dtype=np.float64)
    if runner.route.normalized:
        vectors = truncate_and_normalize(vectors, runner.widths[SENTENCE], normalize=True)
    return truncate_and_normalize(vectors, call.dim, normalize=call.normalize)

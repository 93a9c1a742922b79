"""Windows: texts that are longer than the model reads, cut at token boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.text import Reading, TextTokenizer, Tokens

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
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


def cut(texts: Sequence[str], prompt: str, *, whole: TextTokenizer, window: TextTokenizer, overlap: int) -> Windows:
    """Cuts texts at token boundaries; what fits is one window.

    Args:
        texts: The texts.
        prompt: Goes before every window.
        whole: The tokenizer without truncation.
        window: The tokenizer that truncates to the length of a window.
        overlap: Tokens that a window shares with the one before.

    Raises:
        ValueError: The prompt leaves no room for text, or the overlap no room to go on.
    """
    length = window.max_seq_length
    if length is not None:
        _room(length, len(whole([prompt]).ids), overlap)  # before any work
    tokens = window([prompt + text for text in texts])
    lengths: list[int] = tokens.lengths.tolist()
    parts: list[Tokens] = []
    owners: list[int] = []
    spans: list[Span] = []
    weights: list[int] = []
    long, fitting = set(tokens.truncated), 0  # the texts from `fitting` on are still to be taken
    for i, text in enumerate(texts):
        if i not in long:
            owners.append(i)
            spans.append((0, len(text)))
            weights.append(lengths[i])
            continue
        parts.append(tokens.take(np.arange(fitting, i)))
        fitting = i + 1
        reading = whole.read(prompt + text)
        for places, body in _windows(reading, len(prompt), length or 0, overlap):
            parts.append(_row(reading.tokens, places))
            owners.append(i)
            spans.append((int(reading.spans[body[0], 0]) - len(prompt), int(reading.spans[body[-1], 1]) - len(prompt)))
            weights.append(len(body))
    parts.append(tokens.take(np.arange(fitting, len(texts))))
    return Windows(Tokens.joined(parts), owners, spans, weights)


def _room(length: int, others: int, overlap: int) -> int:
    """Tokens of text in a window of so many, beside the others, if that lets windows go on."""
    room = length - others
    if room < 1:
        raise ValueError(f"max_tokens: {length} leaves no room for text beside {others} tokens of prompt and model")
    if overlap >= room:
        raise ValueError(f"overlap: expected 0 to {room - 1}, as a window has {room} tokens of text, got {overlap}")
    return room


def _windows(reading: Reading, prompt: int, length: int, overlap: int) -> list[tuple[NDArray[np.int64], range]]:
    """The places of the tokens of each window, and those of them that are of the text.

    Args:
        reading: The tokens of prompt and text.
        prompt: Characters of the prompt.
        length: Tokens of a window.
        overlap: Tokens that a window shares with the one before.
    """
    text = np.flatnonzero(~reading.special & (reading.spans[:, 1] > prompt))
    first, end = int(text[0]), int(text[-1]) + 1
    head, tail = np.arange(first), np.arange(end, len(reading.special))
    room = _room(length, len(head) + len(tail), overlap)
    starts = range(first, max(first + 1, end - overlap), room - overlap)
    bodies = [range(start, min(start + room, end)) for start in starts]
    return [(np.concatenate([head, np.arange(body.start, body.stop), tail]), body) for body in bodies]


def _row(tokens: Tokens, places: NDArray[np.int64]) -> Tokens:
    """Some tokens of one text, as a text of their own."""
    types = None if tokens.type_ids is None else tokens.type_ids[places]
    return Tokens(tokens.ids[places], np.array([0, len(places)], np.int64), types, [])

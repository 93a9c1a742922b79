"""Windows: long texts split at token boundaries into parts that the model can read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.text import TextTokenizer, TokenizedText, Tokens

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Windows:
    """Texts split into windows that the model can read.

    Attributes:
        tokens: The token ids of the windows, each with special tokens and prompt.
        owners: The index of each window's text.
        spans: The character span (start, end) of each window in its text.
        weights: The number of text tokens in each window.
    """

    tokens: Tokens
    owners: list[int]
    spans: list[Span]
    weights: list[int]


def split(texts: Sequence[str], prompt: str, *, whole: TextTokenizer, window: TextTokenizer, overlap: int) -> Windows:
    """Split texts into windows at token boundaries; a text that fits is one window.

    Args:
        texts: The texts.
        prompt: Prompt before every window.
        whole: The tokenizer without truncation.
        window: The tokenizer that truncates to the length of a window.
        overlap: Tokens that consecutive windows share.

    Raises:
        ValueError: The prompt leaves no room for text, or the overlap is as long as a window.
    """
    length = window.max_seq_length
    if length is not None:
        _room(length, len(whole([prompt]).ids), overlap)  # raise before any work
    tokens = window([prompt + text for text in texts])
    lengths: list[int] = tokens.lengths.tolist()
    parts: list[Tokens] = []
    owners: list[int] = []
    spans: list[Span] = []
    weights: list[int] = []
    long, pending = set(tokens.truncated), 0  # the texts from `pending` on are not in `parts` yet
    for i, text in enumerate(texts):
        if i not in long:
            owners.append(i)
            spans.append((0, len(text)))
            weights.append(lengths[i])
            continue
        parts.append(tokens.take(np.arange(pending, i)))
        pending = i + 1
        tokenized = whole.with_spans(prompt + text)
        offsets = tokenized.spans - len(prompt)
        for positions, body in _windows(tokenized, len(prompt), length or 0, overlap):
            parts.append(_row(tokenized.tokens, positions))
            owners.append(i)
            spans.append((int(offsets[body[0], 0]), int(offsets[body[-1], 1])))
            weights.append(len(body))
    parts.append(tokens.take(np.arange(pending, len(texts))))
    return Windows(Tokens.joined(parts), owners, spans, weights)


def _room(length: int, others: int, overlap: int) -> int:
    """The number of text tokens per window of `length` tokens, `others` of which are prompt and special tokens.

    Raises:
        ValueError: There is no room for text, or the overlap is as long as a window.
    """
    room = length - others
    if room < 1:
        raise ValueError(f"max_tokens: expected more than {others}, the prompt and special tokens, got {length}")
    if overlap >= room:
        raise ValueError(f"overlap: expected 0 to {room - 1}, as a window has {room} text tokens, got {overlap}")
    return room


def _windows(tokenized: TokenizedText, prompt: int, length: int, overlap: int) -> list[tuple[NDArray[np.int64], range]]:
    """The token positions of each window: all of them, and the range of those from the text.

    Args:
        tokenized: The tokens of prompt and text.
        prompt: Length of the prompt in characters.
        length: Tokens per window.
        overlap: Tokens that consecutive windows share.
    """
    text = np.flatnonzero(~tokenized.special & (tokenized.spans[:, 1] > prompt))
    first, end = int(text[0]), int(text[-1]) + 1
    head, tail = np.arange(first), np.arange(end, len(tokenized.special))
    room = _room(length, len(head) + len(tail), overlap)
    starts = range(first, max(first + 1, end - overlap), room - overlap)
    bodies = [range(start, min(start + room, end)) for start in starts]
    return [(np.concatenate([head, np.arange(body.start, body.stop), tail]), body) for body in bodies]


def _row(tokens: Tokens, positions: NDArray[np.int64]) -> Tokens:
    """The tokens of one text at some positions, as one row."""
    types = None if tokens.type_ids is None else tokens.type_ids[positions]
    return Tokens(tokens.ids[positions], np.array([0, len(positions)], np.int64), types, [])

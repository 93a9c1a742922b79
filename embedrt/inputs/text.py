"""Tokenization with the Rust `tokenizers`, configured once when loaded and never changed by a call."""

import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.engine.machine import require_process
from embedrt.engine.native import NativeError, call_native
from embedrt.errors import BundleError, InferenceError

if TYPE_CHECKING:
    from embedrt.inputs.starts import Starts

Side = Literal["left", "right"]
"""The side of a text that truncation removes."""

# Characters of a long text to tokenize first, per token of the limit, before checking if it is truncated anyway.
_CHARACTERS_PER_TOKEN = 8
# Factor to the next, longer start of a text whose start was not enough.
_GROWTH = 4
# Characters that are tokenized at a time: the tokenizer takes some hundred bytes for each. Also the length from which a
# text is searched for repeats.
_PORTION = 1 << 17
# Larger portions have the same bound for heads from this length on: only the texts that are in work at the same time
# take so many bytes, and of short texts these are few characters.
_LONG_HEAD = 1 << 13
# A text up to this length is tokenized whole if its first start is not enough.
_SHORT = 1 << 15
# Texts, or tokens, that are handled without arrays, which take longer than they save.
_FEW = 32
_LARGEST_ID = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of several texts, concatenated in flat arrays.

    Attributes:
        ids: int32 `[total]`, special tokens included, at most `max_seq_length` per text.
        offsets: int64 `[texts + 1]`: text `i` has `ids[offsets[i]:offsets[i + 1]]`.
        type_ids: The token type ids, int32 `[total]`, or None if the model does not read them.
        truncated: Indexes of the truncated texts.
        attended: The number of tokens of each text that its tokens attend to, from its start, int64 `[texts]`; None if
            they attend to all. The others have vectors too: they expand a query.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    type_ids: NDArray[np.int32] | None
    truncated: list[int]
    attended: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text, int64 `[texts]`."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> "Tokens":
        """The tokens of the texts `rows`, in that order."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        index = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        types = None if self.type_ids is None else self.type_ids[index]
        return Tokens(self.ids[index], offsets, types, [], None if self.attended is None else self.attended[rows])

    @staticmethod
    def joined(parts: "Sequence[Tokens]") -> "Tokens":
        """Concatenate the tokens of all parts."""
        if len(parts) == 1:
            return parts[0]
        types = [part.type_ids for part in parts if part.type_ids is not None]
        starts = accumulate(map(len, parts), initial=0)
        attended = None
        if any(part.attended is not None for part in parts):
            attended = np.concatenate([part.lengths if part.attended is None else part.attended for part in parts])
        return Tokens(
            np.concatenate([part.ids for part in parts]),
            offsets_of(np.concatenate([part.lengths for part in parts])),
            np.concatenate(types) if types else None,
            [start + i for start, part in zip(starts, parts, strict=False) for i in part.truncated],
            attended,
        )


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The offsets of rows with these lengths in a flat array, int64 `[rows + 1]`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def runs_of(sizes: NDArray[np.int64], limit: int, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Split rows into runs (start, end) of at most `limit` in sum, unless a single row has more.

    Args:
        sizes: The sizes of the rows.
        limit: Upper bound of the sum of a run.
        most: Upper bound of the rows of a run; None for no bound.
    """
    totals = np.cumsum(sizes)
    limit = min(limit, int(totals[-1])) if len(totals) else 0
    start, done = 0, 0
    while start < len(sizes):
        end = max(start + 1, int(np.searchsorted(totals, done + limit, side="right")))
        if most is not None:
            end = min(end, start + most)
        yield start, end
        start, done = end, int(totals[end - 1])


def _runs_of_characters(lengths: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    return runs_of(np.where(lengths < _LONG_HEAD, lengths, lengths * max(1, size // _PORTION)), size)


def _with_prompt(prompt: str, texts: Sequence[str]) -> list[str | None]:
    return [prompt + text for text in texts] if prompt else list(texts)


def flat(rows: Iterable[Sequence[int]]) -> NDArray[np.int32]:
    """Concatenate lists of token ids into one array, int32 `[total]`.

    Raises:
        BundleError: An id is no int32.
    """
    ids = array("I")  # three times as fast as "i", which parses every number as an argument of a call
    for row in rows:
        ids.fromlist(row)  # type: ignore[arg-type]
    unsigned = np.frombuffer(ids, np.uint32)
    largest = max(ids, default=0) if len(ids) <= _FEW else int(unsigned.max())
    if largest > _LARGEST_ID:
        raise BundleError(
            f"tokenizer.json: expected ids below the rows of the word embedding table, got {largest}; export the "
            "model again"
        )
    return unsigned.view(np.int32)


@dataclass(frozen=True, eq=False)
class Portion:
    """Texts to tokenize together.

    Attributes:
        heads: What to tokenize of each text, prompt included; None for a long text without a place to cut it.
        wholes: The texts whose heads are not the whole text, by position.
        prompt: The prompt of these texts.
    """

    heads: list[str | None]
    wholes: Mapping[int, str] = field(default_factory=dict)
    prompt: str = ""


@dataclass(frozen=True, eq=False)
class Encoded:
    """The encodings of a portion.

    Attributes:
        encodings: One per text.
        truncated: Indexes of texts that are known to be truncated, as asking an encoding copies what was truncated.
    """

    encodings: list[Any]
    truncated: Collection[int] = ()


class ItemTokenizer(Protocol):
    """The part of a tokenizer that a run of the model needs: `TextTokenizer` for texts, another one for other items."""

    def portions(
        self, items: Sequence[Any], prompt: str = "", *, size: int | None = None, most: int | None = None
    ) -> Iterator[Any]:
        """Split items into portions, each for one call of `encode`; see `TextTokenizer.portions`."""

    def encode(self, portion: Any) -> Any:
        """Tokenize a portion on all cores, for `tokens`; for the most part, without holding the GIL."""

    def tokens(self, encoded: Any) -> Tokens:
        """The token ids of a portion."""


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """The tokens of one text, with their character spans.

    Attributes:
        tokens: The token ids.
        spans: The character span (start, end) of each token, int64 `[tokens, 2]`.
        special: True for each special token that is not part of the text, bool `[tokens]`.
    """

    tokens: Tokens
    spans: NDArray[np.int64]
    special: NDArray[np.bool_]


class TextTokenizer:
    """The tokenizer of one bundle. Safe to use from many threads at once.

    Args:
        path: A `tokenizer.json`.
        max_seq_length: Maximum tokens of a text, special tokens included; None truncates nothing.
        with_type_ids: True to return token type ids.
        direction: The side on which texts are truncated; None takes the file's.
        opened: Another path of the file, to open it with; None is `path`, which messages name either way.

    Attributes:
        max_seq_length: See the argument.
        with_type_ids: See the argument.
        direction: The side on which texts are truncated.
        readings: Tokenizers of items other than texts, made from this one, by their reading.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_seq_length: int | None,
        with_type_ids: bool,
        direction: Side | None = None,
        opened: Path | None = None,
    ) -> None:
        self._tokenizer = read_tokenizer(path, opened)
        direction = direction or (self._tokenizer.truncation or {}).get("direction", "right")
        self._tokenizer.no_padding()
        if max_seq_length is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_seq_length, direction=direction)
        self._process = os.getpid()
        self.max_seq_length = max_seq_length
        self.with_type_ids = with_type_ids
        self.direction = direction
        self.readings: dict[Any, Any] = {}
        self._with_special_tokens = True
        self._head_length = (max_seq_length or 0) * _CHARACTERS_PER_TOKEN
        self._may_cut = max_seq_length is not None and direction == "right"

    def without_special_tokens(self) -> "TextTokenizer":
        """A tokenizer that adds no special tokens and returns no types; it reads `max_seq_length` tokens of text."""
        other = copy(self)
        other.with_type_ids, other.readings, other._with_special_tokens = False, {}, False
        return other

    def __call__(self, texts: Sequence[str], prompt: str = "") -> Tokens:
        """Tokenize texts on all cores.

        Args:
            texts: The texts.
            prompt: A prompt to put before every text.

        Raises:
            InferenceError: The tokenizer failed, or it was loaded before the process forked.
        """
        parts = [self.tokens(self.encode(portion)) for portion in self.portions(texts, prompt)]
        return Tokens.joined(parts) if parts else self.tokens(Encoded([]))

    def portions(
        self, texts: Sequence[str], prompt: str = "", *, size: int | None = None, most: int | None = None
    ) -> Iterator[Portion]:
        """Split texts into portions, each for one call of `encode`.

        Args:
            texts: The texts.
            prompt: A prompt to put before every text.
            size: Characters of a portion, unless a single text has more; None takes few, for little memory.
            most: A portion ends at every multiple of so many texts; None for no bound.
        """
        size, most = size or _PORTION, most or max(1, len(texts))
        if 0 < len(texts) <= min(_FEW, most):
            longest = len(prompt) + max(map(len, texts))
            is_whole = not (self._may_cut and longest > self._head_length)
            if is_whole and longest < _LONG_HEAD and longest * len(texts) <= size:
                yield Portion(_with_prompt(prompt, texts))
                return
        for first in range(0, len(texts), most):
            block = texts[first : first + most]
            lengths = np.fromiter(map(len, block), np.int64, len(block)) + len(prompt)
            if not self._may_cut or lengths.max() <= self._head_length:
                for start, end in _runs_of_characters(lengths, size):
                    yield Portion(_with_prompt(prompt, block[start:end]))
                continue
            for start, end in _runs_of_characters(np.minimum(lengths, self._head_length), size):
                yield from self._portions_with_heads(block[start:end], lengths[start:end], prompt, size)

    def _portions_with_heads(
        self, texts: Sequence[str], lengths: NDArray[np.int64], prompt: str, size: int
    ) -> Iterator[Portion]:
        """Portions of texts of which some are long, and start with a head."""
        is_long = lengths > self._head_length
        heads: list[str | None] = [
            self._head(prompt, text) if long else prompt + text
            for text, long in zip(texts, is_long.tolist(), strict=True)
        ]
        sizes = np.fromiter((0 if head is None else len(head) for head in heads), np.int64, len(heads))
        for start, end in _runs_of_characters(sizes, size):
            partial = np.flatnonzero(sizes[start:end] < lengths[start:end]).tolist()
            yield Portion(heads[start:end], {i: texts[start + i] for i in partial}, prompt)

    def _head(self, prompt: str, text: str) -> str | None:
        """The part of a long text with its prompt to tokenize first; None if there is no place to cut it."""
        if (head := self._starts.head(prompt, text, self._head_length)) is not None:
            return head
        return prompt + text if len(prompt) + len(text) <= _SHORT else None

    def encode(self, portion: Portion) -> Encoded:
        """Tokenize a portion on all cores, for `tokens`; for the most part, without holding the GIL.

        Raises:
            InferenceError: The tokenizer failed, or it was loaded before the process forked.
        """
        require_process(self._process)
        if not portion.wholes:
            return Encoded(self._encode(portion.heads))  # type: ignore[arg-type]  # without wholes, no head is None
        found = iter(self._encode([head for head in portion.heads if head is not None]))
        encodings = [None if head is None else next(found) for head in portion.heads]
        truncated = set()
        for i, text in portion.wholes.items():
            if encodings[i] is not None and self._is_truncated(encodings[i]):
                truncated.add(i)
            else:
                encodings[i] = self._encode_long(portion.prompt + text)
        return Encoded(encodings, truncated)

    def tokens(self, encoded: Encoded) -> Tokens:
        """The token ids of encodings, which are taken out of their list.

        Raises:
            BundleError: An id is no int32.
        """
        encodings, known = encoded.encodings, encoded.truncated
        lengths = [*map(len, encodings)]
        limit = self.max_seq_length
        full = [i for i, length in enumerate(lengths) if length == limit] if limit in lengths else []
        truncated = [i for i in full if i in known or encodings[i].overflowing]
        tokens = tokens_of(encodings, truncated, with_type_ids=self.with_type_ids and not self._has_only_type_0)
        if not self.with_type_ids or tokens.type_ids is not None:
            return tokens
        return Tokens(tokens.ids, tokens.offsets, np.zeros(len(tokens.ids), np.int32), tokens.truncated)

    @cached_property
    def _has_only_type_0(self) -> bool:
        """True if all tokens of all texts have type 0: post-processors look at the sequence, not at its content."""
        encoding = self._encode(["a b 1"])[0]
        return len(encoding) > self.special_tokens and not any(encoding.type_ids)

    def _encode_long(self, text: str) -> Any:
        """Encode a text whose head was not enough: longer and longer starts, until one is truncated."""
        limit, reduced = self._head_length * _GROWTH, False
        while self._may_cut and len(text) > max(limit, _SHORT):
            start = self._starts.start(text, limit)
            if start is None and self._starts.settles(text, limit, self.max_seq_length or 0):
                start = text[:limit]
            if start is not None and self._is_truncated(encoding := self._encode([start])[0]):
                return encoding
            if limit >= _PORTION and not reduced:
                text, reduced = self._starts.without_repeats(text), True
            limit *= _GROWTH
        return self._encode([text])[0]

    @cached_property
    def _starts(self) -> "Starts":
        from embedrt.inputs.starts import Starts  # only long texts need it

        return Starts(self._tokenizer)

    def with_spans(self, text: str) -> TokenizedText:
        """Tokenize one text, with the character span of every token."""
        encoding = self.encoding(text)
        return TokenizedText(
            tokens_of([encoding], [0] if self._is_truncated(encoding) else [], with_type_ids=self.with_type_ids),
            np.array(encoding.offsets, np.int64).reshape(-1, 2),
            np.array(encoding.special_tokens_mask, bool),
        )

    def encoding(self, text: str, *, special_tokens: bool = True) -> Any:
        """The `tokenizers.Encoding` of one text, with the character span of every token."""
        require_process(self._process)
        return _tokenized(self._tokenizer.encode, text, add_special_tokens=special_tokens)

    def count(self, text: str) -> int:
        """The number of tokens of a text, without truncation."""
        encoding = self._encode([text])[0]
        return len(encoding) + sum(len(rest) for rest in encoding.overflowing)

    def whole(self, text: str) -> list[int]:
        """The ids of all tokens of a text, without truncation and special tokens."""
        encoding = _tokenized(self._tokenizer.encode, text, add_special_tokens=False)
        rest = encoding.overflowing if self.direction == "right" else encoding.overflowing[::-1]
        parts = [encoding, *rest] if self.direction == "right" else [*rest, encoding]
        return [token_id for part in parts for token_id in part.ids]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        """Encode pairs of texts with all special tokens.

        Raises:
            InferenceError: The tokenizer failed, or it was loaded before the process forked.
        """
        require_process(self._process)
        # `encode_batch_fast` gives the second text type 0 if there is no post-processor.
        encodings: list[Any] = _tokenized(self._tokenizer.encode_batch, list(pairs)) if pairs else []
        return encodings

    @property
    def head_length(self) -> int | None:
        """The characters of a long text that are tokenized first; None if texts are always tokenized whole."""
        return self._head_length if self._may_cut else None

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`, to be read only."""
        return self._tokenizer

    @property
    def special_tokens(self) -> int:
        """The number of special tokens that are added to a text."""
        count: int = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        return count

    def prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt, special tokens at its start included.

        As in sentence-transformers, these are the tokens of the prompt alone, without a special token at the end.
        """
        ids = self([prompt]).ids
        special = {token_id for token_id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return len(ids) - (len(ids) > 0 and int(ids[-1]) in special)

    def _is_truncated(self, encoding: Any) -> bool:
        return len(encoding) == self.max_seq_length and bool(encoding.overflowing)

    def _encode(self, texts: list[str]) -> list[Any]:
        return encode_batch(self._tokenizer, texts, add_special_tokens=self._with_special_tokens)


def read_tokenizer(path: Path, opened: Path | None = None) -> Any:
    """Load a `tokenizers.Tokenizer`.

    Args:
        path: A `tokenizer.json`.
        opened: Another path of the file, to open it with; None is `path`, which messages name either way.

    Raises:
        BundleError: The file is not a tokenizer.
    """
    import tokenizers

    try:
        return call_native(tokenizers.Tokenizer.from_file, str(opened or path))
    except NativeError as failure:
        raise BundleError(
            f"{path}: tokenizers {tokenizers.__version__} cannot read it: {failure}"
        ) from failure.__cause__


def encode_batch(tokenizer: Any, texts: list[str], *, add_special_tokens: bool = True) -> list[Any]:
    """Encode texts with a `tokenizers.Tokenizer`, without character spans.

    Raises:
        InferenceError: The tokenizer failed.
    """
    if not texts:
        return []
    encodings: list[Any] = _tokenized(tokenizer.encode_batch_fast, texts, add_special_tokens=add_special_tokens)
    return encodings


def _tokenized(encode: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
    try:
        return call_native(encode, *arguments, **options)
    except NativeError as failure:
        kind = type(failure.__cause__).__name__
        raise InferenceError(f"the tokenizer failed: {kind}: {failure}") from failure.__cause__


def tokens_of(encodings: list[Any], truncated: list[int], *, with_type_ids: bool) -> Tokens:
    """The token ids of encodings, one per text, which are taken out of their list.

    So each is freed at once, and another thread may take the GIL in between.
    """
    offsets = offsets_of(np.fromiter(map(len, encodings), np.int64, len(encodings)))
    type_ids = flat(encoding.type_ids for encoding in encodings) if with_type_ids else None
    encodings.reverse()
    return Tokens(flat(encodings.pop().ids for _ in range(len(encodings))), offsets, type_ids, truncated)

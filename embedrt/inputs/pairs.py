"""Pairs of texts: validated, and tokenized as fast as plain texts.

A tokenizer splits the two texts of a pair independently of each other. So each different text is tokenized once, and
truncation, special tokens and token types are added to whole arrays, as the tokenizer's own post-processor adds them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine.native import NativeError, call_native
from embedrt.errors import BundleError
from embedrt.inputs.check import check_texts, require_collection
from embedrt.inputs.text import Encoded, Portion, TextTokenizer, Tokens, offsets_of, runs_of, tokens_of

Pair = tuple[str, str]

_FIRST, _SECOND = 0, 1
# Ids that no vocabulary has, for the tokens of two probes.
_WORD = "a"
_IDS = {_WORD: 2**32 - 1, "b": 2**32 - 2}
_PROBES: list[Pair] = [("a a a", "b b"), ("a", ""), ("", "b b b"), ("", "")]
# Pairs to compare with the tokenizer: every combination of empty, short and truncated texts, for limits up to this one.
_TEXTS, _LONGEST_PROBE = ("", "a b 1", "c 2 "), 1024
# Characters of a portion, unless a call names others.
_PORTION = 1 << 17


def check_pairs(pairs: Any, name: str = "inputs") -> tuple[list[Pair], bool]:
    """Validate the pairs of a call.

    Args:
        pairs: One pair of str, or an ordered collection of pairs; a pair is a tuple, a list or an array of two.
        name: The name of the argument, for messages.

    Returns:
        The pairs as a list, and True if the input was a single pair.

    Raises:
        TypeError: A text is not a str; the message has its index.
        ValueError: An item is not a pair, or a text has a lone surrogate.
    """
    if isinstance(pairs, np.ndarray):
        pairs = pairs.tolist()
    if not isinstance(pairs, list | tuple):
        try:
            require_collection(pairs, name)
        except TypeError:
            kind = f"a {type(pairs).__name__} of 2 dimensions" if hasattr(pairs, "ndim") else type(pairs).__name__
            raise TypeError(f"{name}: expected a pair of texts or an ordered collection of pairs, got {kind}") from None
    items = pairs if isinstance(pairs, list | tuple) else list(pairs)
    if items and isinstance(pairs, list | tuple) and not _is_sequence(items[0]):
        return [_checked(items, name)], True
    return [_checked(item, f"{name}[{i}]") for i, item in enumerate(items)], False


def _is_sequence(item: Any) -> bool:
    return isinstance(item, list | tuple | np.ndarray)


def _checked(item: Any, name: str) -> Pair:
    if type(item) in {tuple, list} and len(item) == 2:
        first, second = item
        if type(first) is str and type(second) is str and first.isascii() and second.isascii():
            return first, second
    if not _is_sequence(item):
        raise TypeError(f"{name}: expected a pair of texts, got {type(item).__name__}")
    if len(item) != 2:
        raise ValueError(f"{name}: expected a pair of texts, got {len(item)} item{'' if len(item) == 1 else 's'}")
    for i, text in enumerate(item):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}]: expected str, got {type(text).__name__}")
    first, second = (check_texts(text, f"{name}[{i}]")[0][0] for i, text in enumerate(item))
    return first, second


@dataclass(frozen=True)
class PairReading:
    """Reading of pairs of texts."""

    def of(self, tokenizer: TextTokenizer) -> "PairTokenizer":
        """The tokenizer of pairs; it is made once for each tokenizer of texts."""
        if (found := tokenizer.readings.get(self)) is None:
            found = tokenizer.readings[self] = PairTokenizer(tokenizer)
        return found


@dataclass(frozen=True, eq=False)
class PairPortion:
    """Pairs to tokenize together.

    Attributes:
        texts: The different first texts, with the prompt, and then all second texts.
        firsts: The index of each pair's first text among the different ones.
        pairs: The pairs, with the prompt.
    """

    texts: list[Portion]
    firsts: NDArray[np.int64]
    pairs: list[Pair]


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """The encodings of a portion.

    Attributes:
        texts: The encodings of its texts; or of its pairs, if the tokenizer is not read by a layout.
        firsts: See `PairPortion`.
        pairs: See `PairPortion`.
    """

    texts: list[Encoded]
    firsts: NDArray[np.int64]
    pairs: list[Pair]


class PairTokenizer:
    """The tokenizer of pairs of one bundle. Safe to use from many threads at once.

    Pairs are truncated from their longer text, token by token, until both are equally long ("longest_first").

    Args:
        tokenizer: The tokenizer of texts.

    Attributes:
        layout: The layout of a pair; None if the tokenizer has to encode every pair itself.
        special_tokens: The number of special tokens that are added to a pair.

    Raises:
        BundleError: The maximum number of tokens leaves no room for text.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._texts = tokenizer.without_special_tokens()
        self._with_type_ids = tokenizer.with_type_ids
        self.max_seq_length = tokenizer.max_seq_length
        self._from_left = tokenizer.direction == "left"
        self.special_tokens: int = tokenizer.backend.num_special_tokens_to_add(is_pair=True)
        self._room = None if self.max_seq_length is None else self.max_seq_length - self.special_tokens
        if self._room is not None and self._room < 1:
            raise BundleError(
                f"max_seq_length: expected at least {self.special_tokens + 1}, room for text beside the special tokens "
                f"of a pair, got {self.max_seq_length}"
            )
        self.layout = _layout_of(tokenizer.backend)
        if self.layout is not None and not self._agrees(self.layout):
            self.layout = None

    def __call__(self, pairs: Sequence[Pair], prompt: str = "") -> Tokens:
        """Tokenize pairs on all cores.

        Args:
            pairs: The pairs.
            prompt: A prompt to put before the first text of every pair.
        """
        parts = [self.tokens(self.encode(portion)) for portion in self.portions(pairs, prompt)]
        return Tokens.joined(parts) if parts else self._empty()

    def portions(
        self, pairs: Sequence[Pair], prompt: str = "", *, size: int | None = None, most: int | None = None
    ) -> Iterator[PairPortion]:
        """Split pairs into portions, each for one call of `encode`; see `TextTokenizer.portions`."""
        size, most = size or _PORTION, most or max(1, len(pairs))
        for first in range(0, len(pairs), most):
            block = pairs[first : first + most]
            for start, end in runs_of(self._sizes(block, prompt), size):
                yield self._portion(block[start:end], prompt, size)

    def _sizes(self, pairs: Sequence[Pair], prompt: str) -> NDArray[np.int64]:
        """The characters of each pair to tokenize: of a first text only where it differs from the one before."""
        firsts = np.fromiter((len(first) for first, _ in pairs), np.int64, len(pairs)) + len(prompt)
        seconds = np.fromiter((len(second) for _, second in pairs), np.int64, len(pairs))
        if (longest := self._texts.head_length) is not None:
            firsts, seconds = np.minimum(firsts, longest), np.minimum(seconds, longest)
        same = [False, *(pair[0] == before[0] for before, pair in pairwise(pairs))]
        return np.where(same, 0, firsts) + seconds

    def _portion(self, pairs: Sequence[Pair], prompt: str, size: int) -> PairPortion:
        known: dict[str, int] = {}
        firsts = np.fromiter((known.setdefault(first, len(known)) for first, _ in pairs), np.int64, len(pairs))
        prompted = [(prompt + first, second) for first, second in pairs] if prompt else list(pairs)
        if self.layout is None:
            return PairPortion([], firsts, prompted)
        texts = [*(prompt + first for first in known), *(second for _, second in pairs)]
        return PairPortion(list(self._texts.portions(texts, size=max(size, _PORTION))), firsts, prompted)

    def encode(self, portion: PairPortion) -> EncodedPairs:
        """Tokenize a portion on all cores, for `tokens`; for the most part, without holding the GIL.

        Raises:
            InferenceError: The tokenizer failed, or it was loaded before the process forked.
        """
        if self.layout is None:
            texts = [Encoded(self._texts.encode_pairs(portion.pairs))]
        else:
            texts = [self._texts.encode(part) for part in portion.texts]
        return EncodedPairs(texts, portion.firsts, portion.pairs)

    def tokens(self, encoded: EncodedPairs) -> Tokens:
        """The token ids of encodings, which are taken out of their lists.

        Raises:
            BundleError: An id is no int32.
        """
        if not encoded.pairs:
            return self._empty()
        if self.layout is None:
            (whole,) = encoded.texts
            truncated = [i for i, encoding in enumerate(whole.encodings) if encoding.overflowing]
            return tokens_of(whole.encodings, truncated, with_type_ids=self._with_type_ids)
        texts = Tokens.joined([self._texts.tokens(part) for part in encoded.texts])
        return self._assembled(self.layout, texts, encoded)

    def _empty(self) -> Tokens:
        return Tokens(
            np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int32) if self._with_type_ids else None, []
        )

    def _assembled(self, layout: "Layout", texts: Tokens, encoded: EncodedPairs) -> Tokens:
        """Truncate the texts of pairs and put them into their layout."""
        rows = (encoded.firsts, np.arange(len(texts) - len(encoded.firsts), len(texts)))
        lengths = (texts.lengths[rows[_FIRST]], texts.lengths[rows[_SECOND]])
        kept, truncated = self._kept(texts, rows, encoded.pairs) if self._room is not None else (lengths, [])
        starts = [texts.offsets[rows[which]] for which in (_FIRST, _SECOND)]
        if self._from_left:
            starts = [starts[which] + lengths[which] - kept[which] for which in (_FIRST, _SECOND)]
        offsets = offsets_of(kept[_FIRST] + kept[_SECOND] + layout.special_tokens)
        ids = np.empty(int(offsets[-1]), np.int32)
        types = np.empty(int(offsets[-1]), np.int32) if self._with_type_ids else None
        at = offsets[:-1]
        for part in layout.parts:
            if part.text is None:
                where, count = at, np.ones_like(at)
                ids[where] = part.id
            else:
                count = kept[part.text]
                steps = np.arange(int(count.sum())) - np.repeat(offsets_of(count)[:-1], count)
                where = np.repeat(at, count) + steps
                ids[where] = texts.ids[np.repeat(starts[part.text], count) + steps]
            if types is not None:
                types[where] = part.type_id
            at = at + count
        return Tokens(ids, offsets, types, truncated)

    def _kept(
        self, texts: Tokens, rows: tuple[NDArray[np.int64], NDArray[np.int64]], pairs: list[Pair]
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], list[int]]:
        """The tokens that stay of the two texts of each pair, and the truncated pairs."""
        room = self._room or 0
        is_cut = np.zeros(len(texts), bool)
        is_cut[texts.truncated] = True
        lengths = texts.lengths + is_cut  # of a text that is truncated already, one that is too long as well
        first, second = lengths[rows[_FIRST]], lengths[rows[_SECOND]]
        truncated: list[int] = np.flatnonzero(first + second > room).tolist()
        if not truncated:
            return (first, second), []
        first_is_longer = first > second
        if room % 2 == 1:  # the longer text keeps one token more
            for i in np.flatnonzero(is_cut[rows[_FIRST]] & is_cut[rows[_SECOND]]).tolist():
                first_is_longer[i] = self._texts.count(pairs[i][_FIRST]) > self._texts.count(pairs[i][_SECOND])
        return _longest_first((first, second), first_is_longer, room), truncated

    def _agrees(self, layout: "Layout") -> bool:
        """Compare the layout with what the tokenizer itself makes of some pairs."""
        texts = list(_TEXTS)
        if self.max_seq_length is not None and self.max_seq_length <= _LONGEST_PROBE:
            texts += ["a b " * (self.max_seq_length // 3 + 1), "1 " * self.max_seq_length]
        pairs = [(first, second) for first in texts for second in texts]
        expected = tokens_of(self._texts.encode_pairs(pairs), [], with_type_ids=self._with_type_ids)
        (portion,) = self.portions(pairs, size=1 << 30)
        found = self._assembled(
            layout,
            Tokens.joined([self._texts.tokens(self._texts.encode(part)) for part in portion.texts]),
            EncodedPairs([], portion.firsts, pairs),
        )
        return all(
            np.array_equal(ours, theirs)
            for ours, theirs in (
                (found.offsets, expected.offsets),
                (found.ids, expected.ids),
                *(() if found.type_ids is None else ((found.type_ids, expected.type_ids),)),
            )
        )


def _longest_first(
    lengths: tuple[NDArray[np.int64], NDArray[np.int64]], longer: NDArray[np.bool_], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens that stay of the two texts of each pair.

    Args:
        lengths: The tokens of the first and of the second texts.
        longer: True for pairs whose first text is the longer one.
        room: Tokens that both texts may have together.
    """
    short, long = np.minimum(*lengths), np.maximum(*lengths)
    fits = short + long <= room
    most = np.maximum(short, room - short)
    halves = short + most > room
    short_kept = np.where(halves, room // 2, short)
    long_kept = np.where(halves, room - room // 2, most)
    first = np.where(longer, long_kept, short_kept)
    second = np.where(longer, short_kept, long_kept)
    return np.where(fits, lengths[_FIRST], first), np.where(fits, lengths[_SECOND], second)


@dataclass(frozen=True)
class _Part:
    """A part of a pair's layout: one special token, or one of the texts.

    Attributes:
        text: 0 for the first text, 1 for the second, None for a special token.
        id: The id of the special token.
        type_id: The token type.
    """

    text: int | None
    id: int
    type_id: int


@dataclass(frozen=True)
class Layout:
    """The order of texts and special tokens in a pair.

    Attributes:
        parts: The parts in order.
    """

    parts: tuple[_Part, ...]

    @property
    def special_tokens(self) -> int:
        """The number of special tokens."""
        return sum(part.text is None for part in self.parts)


def _layout_of(tokenizer: Any) -> Layout | None:
    """Read the layout of a pair from a tokenizer's post-processor; None if it is not made of whole texts.

    A tokenizer with a vocabulary of two words shows it: the post-processor sees tokens, not texts.
    """
    import tokenizers

    try:
        probe = tokenizers.Tokenizer(tokenizers.models.WordLevel(_IDS, unk_token=_WORD))
        probe.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        if tokenizer.post_processor is not None:
            probe.post_processor = tokenizer.post_processor
        encodings = [call_native(probe.encode, *pair) for pair in _PROBES]
    except NativeError:
        return None
    parts: list[_Part] = []
    first = encodings[0]
    texts = {number: _FIRST if word == _WORD else _SECOND for word, number in _IDS.items()}
    for number, type_id in zip(first.ids, first.type_ids, strict=True):
        part = _Part(texts[number], 0, type_id) if number in texts else _Part(None, number, type_id)
        if part.text is None or part not in parts:
            parts.append(part)
    if sorted(part.text for part in parts if part.text is not None) != [_FIRST, _SECOND]:
        return None
    shown = all(_shows(encoding, parts, *pair) for encoding, pair in zip(encodings, _PROBES, strict=True))
    return Layout(tuple(parts)) if shown else None


def _shows(encoding: Any, parts: list[_Part], first: str, second: str) -> bool:
    """Return True if the encoding of a probe has these parts."""
    counts = (len(first.split()), len(second.split()))
    expected = [
        (part.id if part.text is None else _IDS["ab"[part.text]], part.type_id)
        for part in parts
        for _ in range(1 if part.text is None else counts[part.text])
    ]
    return list(zip(encoding.ids, encoding.type_ids, strict=True)) == expected

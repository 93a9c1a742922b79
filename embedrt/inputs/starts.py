"""Starts of long texts: a start that has exactly the first tokens of the whole text, in bounded time and memory.

A model reads the first few hundred or thousand tokens of a text; a tokenizer reads all of it, and needs some hundred
bytes of memory for each token. Three proofs decide where a text may be cut:

- Between two pre-tokens, where the pre-tokenizer decides by adjacent characters: tokens never span pre-tokens.
- Between two characters that no token of the vocabulary has side by side (BPE, Unigram): no token spans the cut, and
  the tokens on one side of a boundary between tokens depend on that side only.
- Anywhere, if the first tokens are the same for every end within one longest token before the cut (BPE, Unigram): the
  tokens of the whole text have a boundary at one of these ends.

Normalizers and pre-tokenizers that look further than at adjacent characters rule a proof out; then a text is read
whole.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any
from unicodedata import combining

# White space to look for first: most pre-tokenizers split there.
_SPACES = " \t\n\r"
SIDE = 64
"""Characters on each side of a cut that decide."""
# Positions and spaces that are tried for one cut.
_POSITIONS = 64
_SPACES_TRIED = 2
# Characters of the pieces that `without_repeats` compares; most short periods divide it.
_PIECE = 5040
# Tokens of a repeated piece between two letters, if it is one endless token: theirs, and a mark of a word's start.
_TRACE = 4

# Normalizers whose output depends on adjacent characters only, combining marks included.
_NORMALIZERS = {
    "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
    "Replace", "Strip", "StripAccents",
}  # fmt: skip
# Pre-tokenizers that decide by adjacent characters, and the others that read from left to right.
_BY_CHARACTERS = {
    "BertPreTokenizer", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit",
}  # fmt: skip
_LEFT_TO_RIGHT = {"ByteLevel", "Split"}
_NO_SPACE = re.compile(r"\S")
# A regex that reads on without a bound: looking around, other than at one character.
_LOOKS_AROUND = re.compile(r"\(\?(?:=|<|!(?!\\S\)))")
# A regex for one character or a run of it.
_RUN = re.compile(r"(?:\[[^\]]*\]|\\.|[^\\()|*+?{}])(?:[*+]|\{\d+(?:,\d*)?\})?")


class Starts:
    """Starts of texts for one tokenizer. Safe to use from many threads at once.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, which is not changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._normalizer, self._pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
        self._model = tokenizer.model
        kind = type(self._model).__name__
        self._merges = kind in {"BPE", "Unigram"} and not _has_affixes(self._model)
        added = list(tokenizer.get_added_tokens_decoder().values())
        self._added = tuple(token.content for token in added)
        self._added_length = max(map(len, self._added), default=0)
        steps = list(_steps(self._pre_tokenizer, "pretokenizers"))
        self.possible = (
            all(_is_local(step) for step in _steps(self._normalizer, "normalizers"))
            and all(_reads_left_to_right(step) for step in steps)
            and not any(token.single_word for token in added)
        )
        self._takes_spaces = any(token.lstrip for token in added)
        self._by_characters = bool(steps) and all(_decides_by_characters(step) for step in steps)

    def head(self, prompt: str, text: str, limit: int) -> str | None:
        """The start of a prompt and a text together, as `start` returns it, without a copy of either."""
        first = (prompt + text[: max(limit + SIDE - len(prompt), 0)])[: limit + SIDE]
        return self.start(first, limit, complete=False)

    def start(self, text: str, limit: int, *, complete: bool = True) -> str | None:
        """The start of a text up to the last cut at or before `limit`; None if no cut is found near it.

        Args:
            text: The text, longer than `limit`.
            limit: Maximum number of characters.
            complete: False if the text goes on, after at least `SIDE` characters beyond the limit.

        Returns:
            A start whose tokens, without those that are added at the end, are the first tokens of the text.
        """
        if not self.possible:
            return None
        beyond = self._is_taken(text, limit, complete=complete)
        for at in _candidates(text, limit):
            is_taken = beyond if _NO_SPACE.search(text, at, limit) is None else self._is_taken(text, at)
            if not (text[at - 1].isspace() and is_taken) and self._is_cut(text, at):
                return text[:at]
        return None

    def settles(self, text: str, limit: int, count: int) -> bool:
        """Return True if the first `count` tokens of a text, without special tokens, are those of `text[:limit]`.

        It is slow: it tokenizes the end of the start once for every length of a token.
        """
        start = text[:limit]
        if not (self.possible and self._merges) or any(token in start for token in self._added):
            return False
        if combining(text[limit]) or (text[limit - 1].isspace() and self._is_taken(text, limit)):
            return False
        *before, last = self._pieces(start) or [""]
        if len(last) < 2 * self._longest:
            return False
        ends = [[token.id for token in self._model.tokenize(last[: len(last) - i])] for i in range(self._longest)]
        settled = sum(len(self._model.tokenize(piece)) for piece in before) + _common(ends)
        return settled >= count

    def without_repeats(self, text: str) -> str:
        """The text without parts that leave no trace in its tokens, such as the rest of a very long run of spaces.

        A part goes if it and the part before it are alike in one of these ways: both are removed by the normalizer;
        both belong to one word that is too long for the vocabulary; or they are equal, and two have the same
        tokens as one.
        """
        if not self.possible:
            return text
        kept = [text[:_PIECE]]
        leaves_no_trace = lru_cache(1)(self._leaves_no_trace)  # a text that repeats itself has the same pair again
        for start in range(_PIECE, len(text), _PIECE):
            end = start + _PIECE
            around = text[max(start - self._added_length, 0) : end + self._added_length]
            joint = kept[-1][-1] + text[end : end + 1]
            apart = joint not in self._added_pairs and not any(token in around for token in self._added)
            if not (apart and leaves_no_trace(kept[-1], text[start:end])):
                kept.append(text[start:end])
        return "".join(kept)

    def _is_cut(self, text: str, at: int) -> bool:
        if combining(text[at]) or text[at - 1 : at + 1] in self._added_pairs:
            return False
        left = self._pieces(text[max(at - SIDE, 0) : at])
        both = self._pieces(text[max(at - SIDE, 0) : at + SIDE])
        count = len(left)
        if not left:  # nothing near the cut is left by the normalizer
            return False
        if self._by_characters and both[:count] == left and len(both) > count:
            return True
        if not self._merges or text[at - 1].isspace() or both[: count - 1] != left[:-1]:
            return False
        rest = "".join(both[count - 1 :])
        size = len(left[-1])
        return rest.startswith(left[-1]) and size < len(rest) and rest[size - 1 : size + 1] not in self._pairs

    def _is_taken(self, text: str, at: int, *, complete: bool = True) -> bool:
        """Return True if white space up to the next word may belong to that word, an added token that takes it."""
        word = _NO_SPACE.search(text, at) if self._takes_spaces else None
        if word is None:
            return self._takes_spaces and not complete
        return text.startswith(self._added, word.start())

    def _leaves_no_trace(self, before: str, piece: str) -> bool:
        if before == piece:
            one, two = self._ids(f"x{piece}x"), self._ids(f"x{before}{piece}x")
            return one == two and len(one) <= _TRACE
        if not self._normalized(piece).strip():
            return self._normalized(f"x{before}{piece}x") == self._normalized("xx")
        longest = getattr(self._model, "max_input_chars_per_word", None)
        if longest is None or not self._by_characters or combining(piece[0]):
            return False
        joint = before[-SIDE:] + piece[:SIDE]
        return self._is_word(joint, 1) and self._is_word(piece, longest + 1) and self._is_word(before, longest + 1)

    def _is_word(self, text: str, length: int) -> bool:
        """Return True if a text is nothing but one pre-token of at least this many characters."""
        word = self._normalized(text)
        return len(word) >= length and self._pieces(word) == [word]

    def _ids(self, text: str) -> list[int]:
        return [token.id for piece in self._pieces(text) for token in self._model.tokenize(piece)]

    def _normalized(self, text: str) -> str:
        normalized: str = text if self._normalizer is None else self._normalizer.normalize_str(text)
        return normalized

    def _pieces(self, text: str) -> list[str]:
        """The pre-tokens of a text, as the model reads them."""
        normalized = self._normalized(text)
        if self._pre_tokenizer is None:
            return [normalized] if normalized else []
        return [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(normalized)]

    @cached_property
    def _added_pairs(self) -> set[str]:
        """All characters that an added token has side by side, as written and as normalized."""
        return _pairs([*self._added, *map(self._normalized, self._added)])

    @cached_property
    def _pairs(self) -> set[str]:
        """All characters that a token of the vocabulary has side by side."""
        return _pairs(self._tokenizer.get_vocab(with_added_tokens=False))

    @cached_property
    def _longest(self) -> int:
        """The number of characters of the longest token."""
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=False)), default=1)


def _candidates(text: str, limit: int) -> Iterator[int]:
    """Positions for a cut, from the limit backwards: at spaces, then between any characters."""
    end = limit
    for _ in range(_SPACES_TRIED):
        end = max(text.rfind(space, 1, end) for space in _SPACES)
        if end < limit // 2:
            break
        yield end
    yield from range(limit, max(limit - _POSITIONS, 0), -1)


def _common(rows: list[list[int]]) -> int:
    """The number of first items that all rows share."""
    return next((i for i, items in enumerate(zip(*rows, strict=False)) if len(set(items)) > 1), min(map(len, rows)))


def _pairs(tokens: Iterable[str]) -> set[str]:
    return {a + b for token in tokens for a, b in pairwise(token)}


def _steps(component: Any, sequence: str) -> Iterator[dict[str, Any]]:
    """The definitions of a normalizer or pre-tokenizer, sequences resolved."""
    if component is None:
        return
    pending = [json.loads(component.__getstate__())]
    while pending:
        step = pending.pop(0)
        if step["type"] == "Sequence":
            pending[:0] = step[sequence]
        else:
            yield step


def _is_local(normalizer: dict[str, Any]) -> bool:
    pattern = normalizer.get("pattern", {})
    is_run = "Regex" not in pattern or _RUN.fullmatch(pattern["Regex"]) is not None
    return normalizer["type"] in _NORMALIZERS and is_run and len(pattern.get("String", "")) < SIDE


def _reads_left_to_right(pre_tokenizer: dict[str, Any]) -> bool:
    pattern = pre_tokenizer.get("pattern", {})
    regex = pattern.get("Regex", "") if isinstance(pattern, dict) else ""
    return pre_tokenizer["type"] in _BY_CHARACTERS | _LEFT_TO_RIGHT and not _LOOKS_AROUND.search(regex)


def _decides_by_characters(pre_tokenizer: dict[str, Any]) -> bool:
    return pre_tokenizer["type"] in _BY_CHARACTERS and pre_tokenizer.get("split", True) is True


def _has_affixes(model: Any) -> bool:
    """Return True if a token at the start or the end of a word has a mark that depends on its place."""
    return bool(getattr(model, "continuing_subword_prefix", None) or getattr(model, "end_of_word_suffix", None))

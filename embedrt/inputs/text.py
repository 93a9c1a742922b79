"""Texts to token ids, with the Rust `tokenizers`. Configured once when loaded, never changed by a call."""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine.machine import require_process
from embedrt.errors import BundleError, InferenceError

# White space that every step below keeps; other kinds count as control characters for some and vanish.
_SPACES = " \t\n\r"
# Pre-tokenizers that split at white space, and normalizers that look at no character beyond a space.
_SPLITS_AT_SPACE = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LOCAL_NORMALIZERS = {"NoneType", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
# How much of a long text to read, per token that the model takes, before looking whether it is cut off anyway.
_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of some texts, one after the other in flat arrays.

    Attributes:
        ids: int32 `[total]`, special tokens included, at most `max_seq_length` of them for each text.
        offsets: int64 `[texts + 1]`: text `i` has the ids from `offsets[i]` to `offsets[i + 1]`.
        type_ids: The token type ids, int32 `[total]`, or None if the model does not read them.
        truncated: Indexes of the truncated texts.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    type_ids: NDArray[np.int32] | None
    truncated: list[int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> "Tokens":
        """The tokens of some of the texts, in the order given."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        index = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(self.ids[index], offsets, None if self.type_ids is None else self.type_ids[index], [])

    @staticmethod
    def joined(parts: "Sequence[Tokens]") -> "Tokens":
        """The tokens of all parts, in order. Truncated texts are not named."""
        types = [part.type_ids for part in parts if part.type_ids is not None]
        return Tokens(
            np.concatenate([part.ids for part in parts]),
            offsets_of(np.concatenate([part.lengths for part in parts])),
            np.concatenate(types) if types else None,
            [],
        )


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where rows of these lengths begin in a flat array, and where the last of them ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flat(rows: Iterable[Sequence[int]]) -> NDArray[np.int32]:
    """Lists of token ids, one after the other in one array."""
    found = array("i")
    for row in rows:
        found.fromlist(row)  # type: ignore[arg-type]
    return np.frombuffer(found, np.int32)


@dataclass(frozen=True, eq=False)
class Reading:
    """The tokens of one text, with their places in it.

    Attributes:
        tokens: The token ids.
        spans: The characters that each token stands for, int64 `[tokens, 2]`, from and to.
        special: Whether each token is a special one that is not of the text, bool `[tokens]`.
    """

    tokens: Tokens
    spans: NDArray[np.int64]
    special: NDArray[np.bool_]


class TextTokenizer:
    """The tokenizer of one bundle. Safe to use from many threads at once.

    Args:
        path: A `tokenizer.json`.
        max_seq_length: Where texts are cut off, special tokens included; None is nowhere.
        with_type_ids: Whether to return token type ids.

    Attributes:
        max_seq_length: Where texts are truncated.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(self, path: Path, *, max_seq_length: int | None, with_type_ids: bool) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise BundleError(f"{path}: tokenizers {tokenizers.__version__} cannot read it: {error}") from error
        direction = (self._tokenizer.truncation or {}).get("direction", "right")
        self._tokenizer.no_padding()
        if max_seq_length is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_seq_length, direction=direction)
        self._process = os.getpid()
        self.max_seq_length = max_seq_length
        self._with_type_ids = with_type_ids
        self._head_length = (max_seq_length or 0) * _CHARACTERS_PER_TOKEN
        self._heads_suffice = (
            max_seq_length is not None and direction == "right" and _no_token_spans_space(self._tokenizer)
        )

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenizes on all processors; the GIL is free meanwhile.

        Raises:
            InferenceError: The tokenizer failed, or the process forked since it was loaded.
        """
        require_process(self._process)
        heads = [self._head(text) for text in texts]
        encodings = self._encode(heads)
        truncated = {i for i, encoding in enumerate(encodings) if self._is_cut(encoding)}
        unsure = [i for i, text in enumerate(texts) if heads[i] is not text and i not in truncated]
        for i, encoding in zip(unsure, self._encode([texts[i] for i in unsure]), strict=True):
            encodings[i] = encoding
            if self._is_cut(encoding):
                truncated.add(i)
        return tokens_of(encodings, sorted(truncated), with_type_ids=self._with_type_ids)

    def read(self, text: str) -> Reading:
        """Tokenizes one text, with the place of every token in it."""
        require_process(self._process)
        encoding = self._tokenizer.encode(text)
        return Reading(
            tokens_of([encoding], [0] if self._is_cut(encoding) else [], with_type_ids=self._with_type_ids),
            np.array(encoding.offsets, np.int64).reshape(-1, 2),
            np.array(encoding.special_tokens_mask, bool),
        )

    @property
    def special_tokens(self) -> int:
        """How many special tokens a text gets."""
        count: int = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        return count

    def prompt_length(self, prompt: str) -> int:
        """How many tokens at the start of a text belong to the prompt before it.

        As in sentence-transformers, these are the tokens of the prompt alone, without a special token at their end.
        """
        ids = self([prompt]).ids
        special = {token_id for token_id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return len(ids) - (len(ids) > 0 and int(ids[-1]) in special)

    def _is_cut(self, encoding: Any) -> bool:
        return len(encoding) == self.max_seq_length and bool(encoding.overflowing)

    def _head(self, text: str) -> str:
        """The head of a long text, up to a space, or the text itself.

        Where no token spans a space, the head's tokens are the text's first tokens. So a head that overflows the model
        gives the same ids as the whole text, at a fraction of the time and memory.
        """
        if not self._heads_suffice or len(text) <= self._head_length:
            return text
        cut = max(text.rfind(space, 0, self._head_length) for space in _SPACES)
        return text[:cut] if cut > 0 else text

    def _encode(self, texts: list[str]) -> list[Any]:
        return encode_batch(self._tokenizer, texts)


def encode_batch(tokenizer: Any, texts: list[str], *, add_special_tokens: bool = True) -> list[Any]:
    """Encodings of texts by a `tokenizers.Tokenizer`, without their places in the text.

    Raises:
        InferenceError: The tokenizer failed.
    """
    if not texts:
        return []
    try:
        encodings: list[Any] = tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
    except BaseException as error:
        # A panic in Rust arrives as a BaseException of its own, which `except Exception` does not catch.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise InferenceError(f"the tokenizer failed: {type(error).__name__}: {error}") from error
    return encodings


def tokens_of(encodings: list[Any], truncated: list[int], *, with_type_ids: bool) -> Tokens:
    """The token ids of encodings, one for each text."""
    return Tokens(
        ids=flat([encoding.ids for encoding in encodings]),
        offsets=offsets_of(np.fromiter(map(len, encodings), np.int64, len(encodings))),
        type_ids=flat([encoding.type_ids for encoding in encodings]) if with_type_ids else None,
        truncated=truncated,
    )


def _no_token_spans_space(tokenizer: Any) -> bool:
    """Whether the text before a space has the same tokens, whatever follows the space."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    steps = list(normalizer) if type(normalizer).__name__ == "Sequence" else [normalizer]
    return (
        {type(step).__name__ for step in steps} <= _LOCAL_NORMALIZERS
        and type(pre_tokenizer).__name__ in _SPLITS_AT_SPACE
        and not any(set(_SPACES) & set(token.content) for token in tokenizer.get_added_tokens_decoder().values())
    )

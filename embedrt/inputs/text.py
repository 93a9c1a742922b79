"""Tokenization with the Rust `tokenizers`, configured once when loaded and never changed by a call."""

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine.machine import require_process
from embedrt.engine.native import NativeError, call_native
from embedrt.errors import BundleError, InferenceError

# White space that every normalizer below keeps; some treat other kinds as control characters and remove them.
_SPACES = " \t\n\r"
# Pre-tokenizers that split at white space, and normalizers whose output before a space does not depend on what follows.
_SPLITS_AT_SPACE = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LOCAL_NORMALIZERS = {"NoneType", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
# Characters of a long text to tokenize first, per token of the limit, before checking if it is truncated anyway.
_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of several texts, concatenated in flat arrays.

    Attributes:
        ids: int32 `[total]`, special tokens included, at most `max_seq_length` per text.
        offsets: int64 `[texts + 1]`: text `i` has `ids[offsets[i]:offsets[i + 1]]`.
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
        """The number of tokens of each text, int64 `[texts]`."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> "Tokens":
        """The tokens of the texts `rows`, in that order."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        index = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(self.ids[index], offsets, None if self.type_ids is None else self.type_ids[index], [])

    @staticmethod
    def joined(parts: "Sequence[Tokens]") -> "Tokens":
        """Concatenate the tokens of all parts; `truncated` is empty."""
        types = [part.type_ids for part in parts if part.type_ids is not None]
        return Tokens(
            np.concatenate([part.ids for part in parts]),
            offsets_of(np.concatenate([part.lengths for part in parts])),
            np.concatenate(types) if types else None,
            [],
        )


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The offsets of rows with these lengths in a flat array, int64 `[rows + 1]`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flat(rows: Iterable[Sequence[int]]) -> NDArray[np.int32]:
    """Concatenate lists of token ids into one array, int32 `[total]`."""
    ids = array("i")
    for row in rows:
        ids.fromlist(row)  # type: ignore[arg-type]
    return np.frombuffer(ids, np.int32)


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

    Attributes:
        max_seq_length: See the argument.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(self, path: Path, *, max_seq_length: int | None, with_type_ids: bool) -> None:
        import tokenizers

        try:
            self._tokenizer = call_native(tokenizers.Tokenizer.from_file, str(path))
        except NativeError as failure:
            raise BundleError(
                f"{path}: tokenizers {tokenizers.__version__} cannot read it: {failure}"
            ) from failure.__cause__
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
        """Tokenize texts on all cores, without holding the GIL.

        Raises:
            InferenceError: The tokenizer failed, or it was loaded before the process forked.
        """
        require_process(self._process)
        heads = [self._head(text) for text in texts]
        encodings = self._encode(heads)
        truncated = {i for i, encoding in enumerate(encodings) if self._is_truncated(encoding)}
        unsure = [i for i, text in enumerate(texts) if heads[i] is not text and i not in truncated]
        for i, encoding in zip(unsure, self._encode([texts[i] for i in unsure]), strict=True):
            encodings[i] = encoding
            if self._is_truncated(encoding):
                truncated.add(i)
        return tokens_of(encodings, sorted(truncated), with_type_ids=self._with_type_ids)

    def with_spans(self, text: str) -> TokenizedText:
        """Tokenize one text, with the character span of every token."""
        require_process(self._process)
        encoding = _tokenized(self._tokenizer.encode, text)
        return TokenizedText(
            tokens_of([encoding], [0] if self._is_truncated(encoding) else [], with_type_ids=self._with_type_ids),
            np.array(encoding.offsets, np.int64).reshape(-1, 2),
            np.array(encoding.special_tokens_mask, bool),
        )

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

    def _head(self, text: str) -> str:
        """The start of a long text, up to a space, or a short text unchanged.

        If no token spans a space, the tokens of the start are the first tokens of the text. A start that exceeds the
        maximum length therefore gives the same ids as the whole text, in a fraction of the time and memory.
        """
        if not self._heads_suffice or len(text) <= self._head_length:
            return text
        end = max(text.rfind(space, 0, self._head_length) for space in _SPACES)
        return text[:end] if end > 0 else text

    def _encode(self, texts: list[str]) -> list[Any]:
        return encode_batch(self._tokenizer, texts)


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
    """The token ids of encodings, one per text."""
    return Tokens(
        ids=flat([encoding.ids for encoding in encodings]),
        offsets=offsets_of(np.fromiter(map(len, encodings), np.int64, len(encodings))),
        type_ids=flat([encoding.type_ids for encoding in encodings]) if with_type_ids else None,
        truncated=truncated,
    )


def _no_token_spans_space(tokenizer: Any) -> bool:
    """Return True if the tokens before a space do not depend on the text after it."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    steps = list(normalizer) if type(normalizer).__name__ == "Sequence" else [normalizer]
    return (
        {type(step).__name__ for step in steps} <= _LOCAL_NORMALIZERS
        and type(pre_tokenizer).__name__ in _SPLITS_AT_SPACE
        and not any(set(_SPACES) & set(token.content) for token in tokenizer.get_added_tokens_decoder().values())
    )

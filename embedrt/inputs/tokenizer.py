"""`Tokenizer`: a bundle's tokenizer with the API of transformers."""

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import MOST_TOKENS, Tokenization
from embedrt.engine.machine import require_process
from embedrt.inputs.check import check_texts
from embedrt.inputs.padding import pad
from embedrt.inputs.text import Tokens, encode_batch, read_tokenizer, tokens_of
from embedrt.inputs.values import integer, shown, truth

_Padding = bool | Literal["longest", "max_length", "do_not_pad"]


class Tokenizer:
    """The part of the transformers tokenizer API that sentence-transformers scripts use. Safe to use from many threads.

    It tokenizes as the model does, without prompts, and its settings never affect the model. `backend_tokenizer` has
    all other features of the Rust tokenizer.

    Args:
        path: A `tokenizer.json`.
        tokenization: The padding and the inputs of the graph.
        model_max_length: Maximum tokens of a text for calls without `max_length`; None truncates nothing.
        opened: Another path of the file, to open it with; None is `path`, which messages name either way.

    Attributes:
        backend_tokenizer: A `tokenizers.Tokenizer`, separate from the one that this object uses.
        model_max_length: See the argument.
        padding_side: "left" or "right".
        pad_token_id: The id of the padding token.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(
        self, path: Path, tokenization: Tokenization, model_max_length: int | None, opened: Path | None = None
    ) -> None:
        self.backend_tokenizer = read_tokenizer(path, opened)
        self._tokenizer = read_tokenizer(path, opened)
        self._tokenizer.no_padding()
        self._direction = (self._tokenizer.truncation or {}).get("direction", "right")
        self._tokenization = tokenization
        self._process = os.getpid()
        self._lock = threading.Lock()  # truncation is a state of the Rust object
        self.model_max_length = model_max_length
        self.padding_side = tokenization.padding_side
        self.pad_token_id = tokenization.pad_id

    def __len__(self) -> int:
        return len(self.get_vocab())

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary, without added tokens."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    @property
    def pad_token(self) -> str | None:
        """The padding token; None if the vocabulary does not have its id."""
        token: str | None = self._tokenizer.id_to_token(self.pad_token_id)
        return token

    @property
    def model_input_names(self) -> list[str]:
        """The names of the arrays that a call returns."""
        return ["input_ids", *(["token_type_ids"] if self._tokenization.token_type_ids else []), "attention_mask"]

    def __call__(
        self,
        text: str | Iterable[str],
        *,
        padding: _Padding = False,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: Literal["np"] | None = None,
    ) -> dict[str, Any]:
        """Tokenize texts.

        Args:
            text: One str, or an iterable of str.
            padding: True or "longest" pads to the longest text, "max_length" to `max_length`.
            truncation: True to truncate to `max_length`.
            max_length: Maximum tokens of a text, special tokens included; None takes `model_max_length`.
            add_special_tokens: True to add the model's special tokens.
            return_tensors: "np" gives int64 arrays `[texts, tokens]`; None gives lists.

        Returns:
            "input_ids", "attention_mask" and, if the model reads them, "token_type_ids".

        Raises:
            ValueError: An argument is out of range, or rows of different lengths cannot be one array.
        """
        texts, single = check_texts(text, "text")
        if return_tensors not in (None, "np"):
            raise ValueError(
                f"return_tensors: expected 'np' or None, got {return_tensors!r}; torch.from_numpy converts"
            )
        if not isinstance(padding, bool | str) or padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"padding: expected True, False, 'longest' or 'max_length', got {shown(padding)}")
        truncation = truth(truncation, "truncation")
        least = self._tokenizer.num_special_tokens_to_add(is_pair=False) + 1
        number = integer(max_length)
        if max_length is not None and (number is None or not least <= number <= MOST_TOKENS):
            raise ValueError(f"max_length: expected {least} to {MOST_TOKENS}, or None, got {shown(max_length)}")
        limit = self.model_max_length if number is None else number
        if padding == "max_length" and limit is None:
            raise ValueError("max_length: expected a number for padding='max_length', as the model has no limit")
        tokens = self._tokens(texts, limit if truncation else None, special=add_special_tokens)
        length = int(tokens.lengths.max(initial=0))
        if padding == "max_length":
            length = max(length, limit or 0)
        padded = pad(tokens, np.arange(len(tokens)), length, self._tokenization)
        arrays = {name: padded[name] for name in self.model_input_names}
        pads = padding not in (False, "do_not_pad")
        if return_tensors == "np":
            if not pads and len(set(tokens.lengths.tolist())) > 1:
                raise ValueError("return_tensors: texts of different lengths cannot be one array; pass padding=True")
            return arrays
        real = padded["attention_mask"] == 1
        values = {
            name: [row.tolist() if pads else row[is_real].tolist() for row, is_real in zip(array, real, strict=True)]
            for name, array in arrays.items()
        }
        return {name: rows[0] for name, rows in values.items()} if single else values

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Encode a text to token ids, without truncation."""
        ids: list[int] = self._tokens([text], None, special=add_special_tokens).ids.tolist()
        return ids

    def tokenize(self, text: str) -> list[str | None]:
        """Split a text into tokens, without special tokens."""
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int] | NDArray[np.integer[Any]], *, skip_special_tokens: bool = False) -> str:
        """Decode token ids to text."""
        text: str = self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=skip_special_tokens)
        return text

    def batch_decode(
        self, sequences: Iterable[Sequence[int] | NDArray[np.integer[Any]]], *, skip_special_tokens: bool = False
    ) -> list[str]:
        """Decode several rows of token ids to texts."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in sequences]

    def get_vocab(self) -> dict[str, int]:
        """The vocabulary: ids by token, added tokens included."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Look up the id of a token, or of a list of tokens; None for a token that is not in the vocabulary."""
        if isinstance(tokens, str):
            return self._tokenizer.token_to_id(tokens)
        return [self._tokenizer.token_to_id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str | None]:
        """Look up the tokens of ids; None for an id that is not in the vocabulary."""
        return [self._tokenizer.id_to_token(int(i)) for i in ids]

    def _tokens(self, texts: list[str], limit: int | None, *, special: bool) -> Tokens:
        require_process(self._process)
        with self._lock:
            if limit is None:
                self._tokenizer.no_truncation()
            else:
                self._tokenizer.enable_truncation(limit, direction=self._direction)
            encodings = encode_batch(self._tokenizer, texts, add_special_tokens=special)
        return tokens_of(encodings, [], with_type_ids=self._tokenization.token_type_ids)

"""Token ids in place of texts, which some clients send: none, ids of the model, or ids of OpenAI's cl100k_base."""

import binascii
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import msgspec
import numpy as np

from embedrt.inputs.text import Tokens, flat, offsets_of
from embedrt.run.runner import Runner
from embedrt.server.errors import RequestError
from embedrt.server.settings import TokenIds

_VOCABULARY = "a vocabulary in tiktoken's format, such as cl100k_base.tiktoken"


class TextPart(msgspec.Struct):
    """A text in an object, as Jina's clients send it."""

    text: str


Inputs: TypeAlias = str | list[str | int | list[int] | TextPart]
"""One text, several texts, one row of token ids, or several rows."""
_KIND = {str: "a text", int: "a token id", list: "a list of token ids"}


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a byte-pair encoding, to decode token ids.

    Attributes:
        pieces: The bytes of each token by id; None for an id without a token.
    """

    pieces: tuple[bytes | None, ...]

    def text(self, ids: Sequence[int], name: str, index: int | None = None) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD, as tiktoken decodes them.

        Args:
            ids: The token ids.
            name: The name of the item, for messages.
            index: The index of the item.

        Raises:
            RequestError: An id is not in the vocabulary; the message has its index.
        """
        count = len(self.pieces)
        found = [self.pieces[token_id] if 0 <= token_id < count else None for token_id in ids]
        if None in found:
            i = found.index(None)
            raise RequestError(
                f"{name}[{i}]: expected a token id of cl100k_base, without special tokens, got {ids[i]}",
                param="input",
                index=index,
            )
        return b"".join(piece for piece in found if piece is not None).decode("utf-8", "replace")


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary in tiktoken's format: on each line the bytes of a token in base64, and its id.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file has another format; the message has the line.
    """
    pieces: dict[int, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        piece, _, rank = line.partition(b" ")
        try:
            token, token_id = b64decode(piece, validate=True), int(rank)
        except (binascii.Error, ValueError):
            raise ValueError(f"{path}:{number}: expected {_VOCABULARY}: a token in base64 and its id") from None
        if not 0 <= token_id < 1 << 24:
            raise ValueError(f"{path}:{number}: expected a token id from 0 to {(1 << 24) - 1}, got {token_id}")
        if token_id in pieces:
            raise ValueError(f"{path}:{number}: expected every token id once, got {token_id} again")
        pieces[token_id] = token
    if not pieces:
        raise ValueError(f"{path}: expected {_VOCABULARY}, got no tokens")
    return Vocabulary(tuple(pieces.get(token_id) for token_id in range(max(pieces) + 1)))


@dataclass(frozen=True)
class IdRows:
    """Token ids of the model's own vocabulary.

    Attributes:
        rows: The ids of each text, special tokens included.
    """

    rows: list[list[int]]


def read_items(
    value: str | list[Any], meaning: TokenIds, vocabulary: Vocabulary | None, name: str = "input"
) -> list[str] | IdRows:
    """The texts of a request; or rows of token ids, if the server takes ids of the model's own vocabulary.

    Args:
        value: One text, several texts, one row of token ids, or several rows.
        meaning: The meaning of token ids.
        vocabulary: The vocabulary that decodes ids of cl100k_base.
        name: The name of the field, for messages.

    Raises:
        RequestError: There is no item, the items are of different types, or token ids cannot be read.
    """
    if isinstance(value, str):
        return [value]
    if not value:
        raise RequestError(f"{name}: expected at least one text, got an empty list", "empty", param=name)
    kinds = set(map(type, value))
    if TextPart in kinds:
        value = [item.text if isinstance(item, TextPart) else item for item in value]
        kinds = set(map(type, value))
    if len(kinds) > 1:
        i = next(i for i, item in enumerate(value) if type(item) is not type(value[0]))
        raise RequestError(
            f"{name}[{i}]: expected {_KIND[type(value[0])]} like {name}[0], got {_KIND[type(value[i])]}",
            param=name,
            index=i,
        )
    if kinds == {str}:
        return value
    rows = [value] if kinds == {int} else value
    if meaning == "reject":
        _reject(name)
    if [] in rows:
        i = rows.index([])
        raise RequestError(
            f"{name}[{i}]: expected at least one token id, got an empty list", "empty", param=name, index=i
        )
    if meaning == "model":
        return IdRows(rows)
    if vocabulary is None:
        raise RequestError(
            f"{name}: expected texts, got token ids; the server has no vocabulary of {meaning}", param=name
        )
    return [vocabulary.text(row, name if rows[0] is value else f"{name}[{i}]", i) for i, row in enumerate(rows)]


def _reject(name: str) -> NoReturn:
    raise RequestError(
        f"{name}: expected texts, got token ids, whose meaning depends on the tokenizer that made them. Send texts: in "
        "langchain-openai, OpenAIEmbeddings(check_embedding_ctx_length=False). Or start the server with --token-ids "
        "model, for ids of the model's own vocabulary, or --token-ids cl100k_base, for ids of OpenAI's",
        param=name,
        code="token_ids_not_supported",
    )


def tokens_of_ids(ids: IdRows, runner: Runner, limit: int | None, name: str = "input") -> Tokens:
    """Token ids of the model's own vocabulary as the model reads them, special tokens included.

    Args:
        ids: The ids.
        runner: The runner of the model's route.
        limit: Maximum tokens of a text; None is no limit.
        name: The name of the field, for messages.

    Raises:
        RequestError: An id is not in the vocabulary, or a row is too long; the message has the index.
    """
    most = runner.route.tokenization.embedding_rows
    for i, row in enumerate(ids.rows):
        if limit is not None and len(row) > limit:
            raise RequestError(
                f"{name}[{i}]: expected at most {limit} token ids, got {len(row)}", "truncated", param=name, index=i
            )
        if min(row) < 0 or max(row) >= most:
            k = next(k for k, token_id in enumerate(row) if not 0 <= token_id < most)
            raise RequestError(
                f"{name}[{i}][{k}]: expected a token id from 0 to {most - 1}, got {row[k]}", param=name, index=i
            )
    flat_ids = flat(ids.rows)
    types = np.zeros_like(flat_ids) if runner.route.tokenization.token_type_ids else None
    return Tokens(flat_ids, offsets_of(np.array([len(row) for row in ids.rows], np.int64)), types, [])

"""The vocabulary that decodes token ids of cl100k_base."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from embedrt.server.errors import RequestError
from embedrt.server.token_ids import IdRows, TextPart, Vocabulary, read_items, read_vocabulary

PIECES = [bytes([byte]) for byte in range(256)] + [b"the", b" cat", b" river", " ж".encode(), "🙂".encode()]


def write(path: Path, pieces: list[bytes] = PIECES) -> Path:
    path.write_bytes(b"".join(b64encode(piece) + b" %d\n" % i for i, piece in enumerate(pieces)))
    return path


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    return read_vocabulary(write(tmp_path / "cl100k_base.tiktoken"))


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([256, 257], "the cat"),
        ([256, 258, 259, 260], "the river ж🙂"),
        (list("é".encode()), "é"),
        ([0xC3], "�"),  # a text that was split within a character
        ([], ""),
        ([0], "\0"),
    ],
)
def test_decodes(vocabulary: Vocabulary, ids: list[int], text: str) -> None:
    assert vocabulary.text(ids, "input") == text


@pytest.mark.parametrize("bad", [261, -1, 2**63, 10**40])
def test_unknown_ids(vocabulary: Vocabulary, bad: int) -> None:
    with pytest.raises(RequestError) as failure:
        vocabulary.text([1, 2, bad], "input[7]", 7)
    assert failure.value.message == (
        f"input[7][2]: expected a token id of cl100k_base, without special tokens, got {bad}"
    )
    assert (failure.value.param, failure.value.kind, failure.value.index) == ("input", "validation", 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a vocabulary in tiktoken's format"),
        (b"\n\n", "got no tokens"),
        (b"aGk= 0\nhello", ":2: expected a vocabulary"),
        (b"aGk= 0\n!!!! 1", ":2: expected a vocabulary"),
        (b"aGk= 0\naGk= one", ":2: expected a vocabulary"),
        (b"aGk= 0\naG8= 0", ":2: expected every token id once, got 0 again"),
        (b"aGk= -1", ":1: expected a token id from 0 to 16777215, got -1"),
        (b"aGk= 99999999999", ":1: expected a token id from 0"),
        (b"\xff\xfe 0", ":1: expected a vocabulary"),
    ],
)
def test_files_of_other_formats(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.tiktoken.*{message}"):
        read_vocabulary(path)


def test_ids_without_a_token(tmp_path: Path) -> None:
    path = tmp_path / "gap.tiktoken"
    path.write_bytes(b"aGk= 0\naG8= 2\n")
    with pytest.raises(RequestError, match=r"input\[0\]: expected a token id"):
        read_vocabulary(path).text([1], "input")


def test_items() -> None:
    assert read_items("a", "reject", None) == ["a"]
    assert read_items(["a", ""], "reject", None) == ["a", ""]
    assert read_items([TextPart("a"), "b"], "reject", None) == ["a", "b"]
    assert read_items([1, 2], "model", None) == IdRows([[1, 2]])
    assert read_items([[1, 2], [3]], "model", None) == IdRows([[1, 2], [3]])


def test_items_of_cl100k_base(vocabulary: Vocabulary) -> None:
    assert read_items([256, 257], "cl100k_base", vocabulary) == ["the cat"]
    assert read_items([[256, 257], [258]], "cl100k_base", vocabulary) == ["the cat", " river"]
    with pytest.raises(RequestError, match=r"^input\[1\]\[0\]: expected a token id of cl100k_base") as failure:
        read_items([[256], [9999]], "cl100k_base", vocabulary)
    assert failure.value.index == 1
    with pytest.raises(RequestError, match=r"^input\[1\]: expected a token id of cl100k_base"):
        read_items([256, 9999], "cl100k_base", vocabulary)


@pytest.mark.parametrize("ids", [[1], [[1], [2]], [[]]])
def test_token_ids_are_rejected_with_the_cure(ids: list[Any]) -> None:
    with pytest.raises(RequestError, match="check_embedding_ctx_length=False") as failure:
        read_items(ids, "reject", None)
    assert failure.value.code == "token_ids_not_supported"
    assert failure.value.param == "input"


@pytest.mark.parametrize(
    ("value", "message", "index"),
    [
        ([], "input: expected at least one text, got an empty list", None),
        (["a", 1], "input[1]: expected a text like input[0], got a token id", 1),
        ([1, 2, "a"], "input[2]: expected a token id like input[0], got a text", 2),
        ([[1], "a"], "input[1]: expected a list of token ids like input[0], got a text", 1),
        ([[1], []], "input[1]: expected at least one token id, got an empty list", 1),
    ],
)
def test_bad_items(value: list[Any], message: str, index: int | None) -> None:
    with pytest.raises(RequestError) as failure:
        read_items(value, "model", None)
    assert (failure.value.message, failure.value.index, failure.value.param) == (message, index, "input")

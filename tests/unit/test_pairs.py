"""Pairs: the tokenizer's own token ids, types and truncation, and messages for what is no pair."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from embedrt.errors import BundleError
from embedrt.inputs.pairs import PairReading, PairTokenizer, check_pairs
from embedrt.inputs.text import TextTokenizer
from tests.kit.tokenizer_cases import TEXTS, plain

_CLS, _SEP = ("[CLS]", 2), ("[SEP]", 3)
_PROCESSORS: dict[str, Any] = {
    "bert": processors.BertProcessing(_SEP, _CLS),
    "roberta": processors.RobertaProcessing(_SEP, _CLS),
    "none": None,
    "second-first": processors.TemplateProcessing(
        single="$A [SEP]", pair="$B:1 [SEP]:1 $A [SEP]", special_tokens=[_SEP]
    ),
    "twice": processors.TemplateProcessing(single="$A [SEP]", pair="$A $A [SEP] $B:1", special_tokens=[_SEP]),
}


def _definition(processor: str, direction: str) -> dict[str, Any]:
    definition = plain("bert")
    own = tokenizers.Tokenizer.from_str(json.dumps({**definition, "post_processor": None}))
    if _PROCESSORS[processor] is not None:
        own.post_processor = _PROCESSORS[processor]
    made: dict[str, Any] = json.loads(own.to_str())
    truncation = {"direction": direction, "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    return {**made, "truncation": truncation}


def _pairs(words: int) -> Iterator[tuple[str, str]]:
    choose = random.Random(words)
    vocabulary = " ".join(TEXTS).split()
    texts = [" ".join(choose.choices(vocabulary, k=k)) for k in (0, 1, 3, words // 2, words)]
    for first in texts:
        for second in texts:
            yield first, second


def _tokenizer(path: Path, limit: int | None, processor: str = "bert", direction: str = "Right") -> TextTokenizer:
    path.write_text(json.dumps(_definition(processor, direction)))
    return TextTokenizer(path, max_seq_length=limit, with_type_ids=True)


@pytest.mark.parametrize("processor", _PROCESSORS)
@pytest.mark.parametrize("direction", ["Right", "Left"])
@pytest.mark.parametrize("limit", [None, 12, 13])
def test_pairs_are_those_of_the_tokenizer(tmp_path: Path, processor: str, direction: str, limit: int | None) -> None:
    tokenizer = _tokenizer(tmp_path / "tokenizer.json", limit, processor, direction)
    pairs = PairReading().of(tokenizer)
    assert (pairs.layout is None) == (processor == "twice")

    items = list(_pairs(words=12))
    expected = [tokenizer.backend.encode("query: " + first, second) for first, second in items]
    tokens = pairs(items, "query: ")
    rows = [slice(*tokens.offsets[i : i + 2]) for i in range(len(items))]
    assert tokens.type_ids is not None
    assert [tokens.ids[row].tolist() for row in rows] == [encoding.ids for encoding in expected]
    assert [tokens.type_ids[row].tolist() for row in rows] == [encoding.type_ids for encoding in expected]
    assert tokens.truncated == [i for i, encoding in enumerate(expected) if encoding.overflowing]


def test_a_tokenizer_of_pairs_is_made_once(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path / "tokenizer.json", 12)
    assert PairReading().of(tokenizer) is PairReading().of(tokenizer)


def test_each_different_query_is_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = PairReading().of(_tokenizer(tmp_path / "tokenizer.json", None))
    seen: list[str] = []
    encode = TextTokenizer._encode

    def watched(self: TextTokenizer, texts: list[str]) -> list[Any]:
        seen.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(TextTokenizer, "_encode", watched)
    pairs([("query", f"document {i}") for i in range(100)])
    assert seen.count("query") == 1
    assert len(seen) == 101


def test_long_documents_are_cut_before_they_are_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = PairReading().of(_tokenizer(tmp_path / "tokenizer.json", 16))
    seen: list[str] = []
    encode = TextTokenizer._encode

    def watched(self: TextTokenizer, texts: list[str]) -> list[Any]:
        seen.extend(texts)
        return encode(self, texts)

    document = "the cat sat on a mat " * 17_000
    short = pairs([("a cat", document[:2000])])
    monkeypatch.setattr(TextTokenizer, "_encode", watched)
    long = pairs([("a cat", document)])
    assert long.ids.tolist() == short.ids.tolist()
    assert long.truncated == [0]
    assert max(map(len, seen)) < 2000


def test_portions_bound_the_characters(tmp_path: Path) -> None:
    pairs = PairReading().of(_tokenizer(tmp_path / "tokenizer.json", None))
    one_query = [("query", "d" * 100) for _ in range(50)]
    assert [len(portion.pairs) for portion in pairs.portions(one_query, size=1005)] == [10] * 5
    several = [(f"{i}" * 50, "d" * 50) for i in range(10)]
    assert [len(portion.pairs) for portion in pairs.portions(several, size=500)] == [5, 5]
    assert [len(portion.pairs) for portion in pairs.portions(several, most=4)] == [4, 4, 2]
    assert len(pairs([])) == 0


def test_no_room_for_text(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path / "tokenizer.json", 3)
    with pytest.raises(BundleError, match="max_seq_length: expected at least 4, room for text beside"):
        PairTokenizer(tokenizer)


@pytest.mark.parametrize(
    ("given", "pairs", "is_single"),
    [
        (("a", "b"), [("a", "b")], True),
        (["a", "b"], [("a", "b")], True),
        (np.array(["a", "b"]), [("a", "b")], True),
        ([("a", "b"), ["c", ""]], [("a", "b"), ("c", "")], False),
        (np.array([["a", "b"], ["c", "d"]], object), [("a", "b"), ("c", "d")], False),
        (zip("ab", "cd", strict=True), [("a", "c"), ("b", "d")], False),
        ([], [], False),
        (np.array([]), [], False),
        ([("é", np.str_("b"))], [("é", "b")], False),
    ],
)
def test_valid_pairs(given: Any, pairs: list[tuple[str, str]], is_single: bool) -> None:
    found = check_pairs(given)
    assert found == (pairs, is_single)
    assert all(type(text) is str for pair in found[0] for text in pair)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (["a"], ValueError, "inputs: expected a pair of texts, got 1 item$"),
        (["a", "b", "c"], ValueError, "inputs: expected a pair of texts, got 3 items"),
        ([("a", "b"), ("a", "b", "c")], ValueError, r"inputs\[1\]: expected a pair of texts, got 3 items"),
        ([("a", "b"), "c"], TypeError, r"inputs\[1\]: expected a pair of texts, got str"),
        ([("a", "b"), ("c", None)], TypeError, r"inputs\[1\]\[1\]: expected str, got NoneType"),
        (("a", None), TypeError, r"inputs\[1\]: expected str, got NoneType"),
        ([("a", "b"), None], TypeError, r"inputs\[1\]: expected a pair of texts, got NoneType"),
        ([("a", ["b", "c"])], TypeError, r"inputs\[0\]\[1\]: expected str, got list"),
        ([("a", "\ud800")], ValueError, r"inputs\[0\]\[1\]: lone surrogate"),
        ("a", TypeError, "inputs: expected a pair of texts or an ordered collection of pairs, got str"),
        ({"a": "b"}, TypeError, "inputs: expected a pair of texts or an ordered collection of pairs, got dict"),
        (None, TypeError, "inputs: expected a pair of texts or an ordered collection of pairs, got NoneType"),
        ([[]], ValueError, r"inputs\[0\]: expected a pair of texts, got 0 items"),
        (np.array([1.0, 2.0]), TypeError, r"inputs\[0\]: expected str, got float"),
    ],
)
def test_messages_name_the_item(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_pairs(given)

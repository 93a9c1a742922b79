"""`Tokenizer`, as scripts written for transformers call it: the ids are those that the model reads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from embedrt import Embedder
from embedrt.inputs.tokenizer import Tokenizer

TEXTS = ["one cat", "two dogs by the river", "", "é 千里 🙂", "one two " * 40]


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path, tiny: Embedder) -> Tokenizer:
    return Tokenizer(tiny_bundle / "tokenizer.json", tiny.manifest.routes["default"].tokenization, 48)


def test_the_ids_are_those_of_the_model(tokenizer: Tokenizer, tiny: Embedder) -> None:
    expected = tiny.tokenize(TEXTS)
    found = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    assert set(found) == set(expected)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == np.int64
    assert (
        tokenizer(TEXTS[0], return_tensors="np")["input_ids"].tolist() == tiny.tokenize(TEXTS[0])["input_ids"].tolist()
    )


def test_lists_without_padding(tokenizer: Tokenizer, tiny: Embedder) -> None:
    found = tokenizer(TEXTS)
    assert [len(ids) for ids in found["input_ids"]] == tiny.token_count(TEXTS, truncation=False)
    assert found["attention_mask"] == [[1] * len(ids) for ids in found["input_ids"]]
    assert tokenizer(TEXTS[1]) == {name: rows[1] for name, rows in found.items()}
    assert tokenizer([]) == {name: [] for name in found}


@pytest.mark.parametrize("max_length", [3, 8, 60])
def test_lengths(tokenizer: Tokenizer, max_length: int) -> None:
    whole = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    cut = tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    assert [len(ids) for ids in cut] == [min(count, max_length) for count in whole]
    padded = tokenizer(TEXTS, truncation=True, max_length=max_length, padding="max_length", return_tensors="np")
    assert padded["input_ids"].shape == (len(TEXTS), max_length)
    assert padded["attention_mask"].sum(axis=1).tolist() == [min(count, max_length) for count in whole]
    assert [len(ids) for ids in tokenizer(TEXTS)["input_ids"]] == whole


def test_padding_on_the_left_and_token_types(tiny_bundle: Path, tiny: Embedder) -> None:
    how = replace(tiny.manifest.routes["default"].tokenization, padding_side="left", token_type_ids=True)
    found = Tokenizer(tiny_bundle / "tokenizer.json", how, None)(["one two", "one"], padding=True)
    assert list(found) == ["input_ids", "token_type_ids", "attention_mask"]
    assert found["attention_mask"] == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert found["input_ids"][1][0] == how.pad_id


def test_words_and_ids(tokenizer: Tokenizer, tiny_bundle: Path) -> None:
    plain = tokenizers.Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    ids = tokenizer.encode("one cat")
    assert ids == plain.encode("one cat").ids
    assert tokenizer.encode("one cat", add_special_tokens=False) == ids[1:-1]
    assert tokenizer("one cat", add_special_tokens=False)["input_ids"] == ids[1:-1]
    assert tokenizer.tokenize("one cat") == ["one", "cat"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "one", "cat", "[SEP]"]
    assert tokenizer.convert_tokens_to_ids(["[CLS]", "one", "no such token"]) == [*ids[:2], None]
    assert tokenizer.convert_tokens_to_ids("cat") == ids[2]
    assert tokenizer.decode(np.array(ids), skip_special_tokens=True) == "one cat"
    assert tokenizer.batch_decode([ids, ids[:2]]) == [plain.decode(ids, False), plain.decode(ids[:2], False)]
    assert tokenizer.get_vocab() == plain.get_vocab()
    assert len(tokenizer) == plain.get_vocab_size()
    assert tokenizer.vocab_size == plain.get_vocab_size(with_added_tokens=False)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", plain.token_to_id("[PAD]"))
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("right", 48)
    assert tokenizer.backend_tokenizer.token_to_id("cat") == ids[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": "pt"}, r"return_tensors: expected 'np' or None, got 'pt'; torch\.from_numpy converts"),
        ({"return_tensors": "np"}, "return_tensors: texts of different lengths cannot be one array; pass padding=True"),
        ({"padding": "left"}, "padding: expected True, False, 'longest' or 'max_length', got 'left'"),
        ({"truncation": "only_first"}, "truncation: expected True or False, got 'only_first'"),
        ({"max_length": 2, "truncation": True}, "max_length: expected 3 to 2147483647, or None, got 2"),
        ({"max_length": 4.0}, r"max_length: expected 3 to 2147483647, or None, got 4\.0"),
    ],
)
def test_wrong_arguments(tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        tokenizer(TEXTS, **options)


def test_unknown_options_and_texts(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match="return_offsets_mapping"):
        tokenizer(TEXTS, return_offsets_mapping=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^text\[1\]: expected str, got tuple$"):
        tokenizer(["a", ("a", "b")])  # type: ignore[list-item]


def test_no_limit(tiny_bundle: Path, tiny: Embedder) -> None:
    endless = Tokenizer(tiny_bundle / "tokenizer.json", tiny.manifest.routes["default"].tokenization, None)
    assert len(endless("one " * 100, truncation=True)["input_ids"]) == 102
    with pytest.raises(ValueError, match=r"^max_length: expected a number for padding='max_length'"):
        endless(TEXTS, padding="max_length")


def test_threads_with_different_lengths(tokenizer: Tokenizer) -> None:
    def lengths(max_length: int) -> set[int]:
        found = tokenizer(["one two " * 40] * 20, truncation=True, max_length=max_length)
        return {len(ids) for ids in found["input_ids"]}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lengths, [4, 9, 20, 33] * 20)) == [{4}, {9}, {20}, {33}] * 20

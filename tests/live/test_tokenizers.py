"""Settled tokenizers against `AutoTokenizer`: the same ids for every class, many settings and many texts."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer
from transformers import logging as transformers_logging
from transformers.models.auto import tokenization_auto
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from embedrt import EmbedrtError
from embedrt_export.proof.texts import parity_texts
from embedrt_export.tokenizer import build_tokenizer
from embedrt_export.tokenizer import names as tokenizer_names
from tests.kit.tokenizer_cases import CASES, SOURCES, TEXTS, Case, token, typed, write_case

ROWS = 1 << 30
CUT = 12
WORDS = [
    "the",
    "one",
    "quick",
    "<new>",
    "New",
    "two",
    "<s>",
    "</s>",
    "<unk>",
    "[CLS]",
    "[SEP]",
    "<pad>",
    "<mask>",
    "é",
    "Café",
    "<|endoftext|>",
    "a",
    "▁the",
    "(",
    "QQ",
]
PIECES = [
    *WORDS,
    *TEXTS[1:],
    " two",
    "x y",
    "<extra_id_3>",
    " ",
    "  ",
    "\t",
    "\n",
    "\u3000",
    "'",
    "🙂",
    "ﬁ",
    "12",
    "\x00",
]
RANGES = [(0, 0x7F), (0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0xDFF), (0x2000, 0x206F), (0x3000, 0x30FF)]
RANGES += [(0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x1F300, 0x1FAFF), (0, 0xD7FF), (0x10000, 0x10FFFF)]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers_logging.set_verbosity_error()


def random_texts(chance: random.Random, count: int) -> list[str]:
    def text() -> str:
        if chance.random() < 0.5:
            return "".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 9)))
        low, high = chance.choice(RANGES)
        return "".join(chr(chance.randint(low, high)) for _ in range(chance.randrange(1, 30)))

    return [text() for _ in range(count)]


def encode(tokenizer: Any, text: str) -> list[int] | str:
    """The ids, or that there are none: a vocabulary may lack its own unknown token."""
    try:
        ids: list[int] = tokenizer(text)["input_ids"] if callable(tokenizer) else tokenizer.encode(text).ids
    except Exception as error:  # noqa: BLE001 - whatever the library raises counts as a result
        return type(error).__name__
    return ids


def compare(folder: Path, architecture: str, texts: list[str]) -> None:
    reference = AutoTokenizer.from_pretrained(folder)
    settled = build_tokenizer(folder, architecture, ROWS, do_lower_case=False)
    tokenizer = tokenizers.Tokenizer.from_str(settled.definition)
    ours, theirs = json.loads(tokenizer.to_str()), json.loads(reference.backend_tokenizer.to_str())
    if isinstance(theirs["model"]["vocab"], list):
        our_scores, their_scores = (dict(parts["model"].pop("vocab")) for parts in (ours, theirs))
        assert our_scores == pytest.approx(their_scores, rel=1e-15)
    for part in ("normalizer", "pre_tokenizer", "model", "added_tokens"):
        assert ours[part] == theirs[part]
    side = json.loads(settled.definition)["truncation"]["direction"].lower()
    tokenizer.no_truncation()
    for text in texts:
        assert encode(tokenizer, text) == encode(reference, text), repr(text)
    assert settled.special_tokens == reference.num_special_tokens_to_add()
    assert settled.tokenization.pad_id == (reference.pad_token_id or 0)
    assert side == reference.truncation_side
    limit = reference.model_max_length
    assert settled.model_max_length == (limit if limit < 1e9 else None)
    tokenizer.enable_truncation(CUT, direction=side)
    for text in texts[::5]:
        cut = reference(text, truncation=True, max_length=CUT)
        encoding = tokenizer.encode(text)
        assert encoding.ids == cut["input_ids"]
        if settled.tokenization.token_type_ids:
            assert encoding.type_ids == cut["token_type_ids"]
        else:
            assert not any(cut.get("token_type_ids", []))
    of_pairs = build_tokenizer(folder, architecture, ROWS, do_lower_case=False, pairs=True)
    tokenizer = tokenizers.Tokenizer.from_str(of_pairs.definition)
    tokenizer.enable_truncation(CUT, direction=side)
    for first, second in zip(texts[::7], texts[3::7], strict=False):
        (expected,) = reference([first], [second], truncation="longest_first", max_length=CUT)["input_ids"]
        assert tokenizer.encode(first, second).ids == expected


@pytest.mark.parametrize("name", CASES)
def test_ids(name: str, tmp_path: Path) -> None:
    write_case(tmp_path, name)
    texts = [*TEXTS, *parity_texts(64), *random_texts(random.Random(name), 120), "the cat's 千里 " * 400]
    compare(tmp_path, CASES[name].architecture, texts)


def random_token(chance: random.Random, *, is_typed: bool) -> Any:
    content = chance.choice([*WORDS, " two", "x y", "<extra_id_3>"])
    if is_typed and chance.random() < 0.5:
        return content
    names = ["lstrip", "rstrip", "single_word", "normalized", "special"]
    properties = {name: chance.random() < 0.4 for name in names if chance.random() < 0.6}
    return (typed if is_typed else token)(content, **properties)


def random_case(chance: random.Random) -> Case:
    """A class with settings, tokens and files in combinations that nobody would write."""

    def sometimes(share: float, value: Any) -> Any:
        return value() if chance.random() < share else ...

    def a_token() -> Any:
        return random_token(chance, is_typed=True)

    def flag() -> bool:
        return chance.random() < 0.5

    def tokens() -> list[Any]:
        return [a_token() for _ in range(chance.randrange(4))]

    ids = [0, 1, 2, 3, 4, 5, 6, 7, 40, 300, 999]
    roles = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
    flags = ["add_prefix_space", "legacy", "do_lower_case", "split_by_punct", "keep_accents", "add_bos_token"]
    flags += ["add_eos_token", "tokenize_chinese_chars", "strip_accents", "trim_offsets"]
    config = {
        **{role: sometimes(0.12, a_token) for role in roles},
        **{name: sometimes(0.25, flag) for name in flags},
        "additional_special_tokens": sometimes(0.3, tokens),
        "extra_special_tokens": sometimes(0.3, lambda: chance.choice([None, [], tokens(), {"q_token": a_token()}])),
        "added_tokens_decoder": sometimes(
            0.3, lambda: {str(chance.choice(ids)): random_token(chance, is_typed=False) for _ in range(4)}
        ),
        "w_token": sometimes(0.2, a_token),
        "extra_ids": sometimes(0.1, lambda: chance.choice([0, 1, 3, 100])),
        "truncation_side": sometimes(0.1, lambda: "left"),
    }
    special_map = {role: sometimes(0.1, lambda: random_token(chance, is_typed=False)) for role in roles}
    special_map["extra_special_tokens"] = sometimes(0.2, lambda: [chance.choice(WORDS), {"content": "the"}])
    others: dict[str, Any] = {
        "special_tokens_map.json": {key: value for key, value in special_map.items() if value is not ...},
        "added_tokens.json": sometimes(0.2, lambda: {chance.choice(WORDS): chance.randrange(2000)}),
    }
    stored: dict[str, Any] = {
        "post_processor": sometimes(0.2, lambda: None),
        "normalizer": sometimes(0.2, lambda: None),
        "added_tokens": sometimes(0.2, list),
    }
    kind = chance.choice([*SOURCES, "ElectraTokenizer", "LlamaTokenizerFast", "UnknownTokenizer"])
    source = SOURCES.get(kind, "bert") if chance.random() < 0.9 else chance.choice(list(SOURCES.values()))
    return Case(
        kind,
        source,
        files=chance.random() < 0.4,
        config={key: value for key, value in config.items() if value is not ...},
        stored={key: value for key, value in stored.items() if value is not ...},
        others={key: value for key, value in others.items() if value is not ...},
        architecture=chance.choice(
            ["llama"] * 5 + ["bert", "mistral", "qwen2", "xlm-roberta", "eurobert", "gte", "t5"]
        ),
    )


def test_random_settings(tmp_path: Path) -> None:
    """What is not refused has the ids of transformers."""
    outcomes: Counter[str] = Counter()
    for seed in range(250):
        chance = random.Random(seed)
        case = random_case(chance)
        folder = tmp_path / str(seed)
        write_case(folder, case)
        try:
            build_tokenizer(folder, case.architecture, ROWS, do_lower_case=False)
        except EmbedrtError:
            outcomes["refused"] += 1
            continue
        try:
            AutoTokenizer.from_pretrained(folder)
        except Exception:  # noqa: BLE001 - whatever it raises, there is nothing to compare with
            outcomes["not loaded by transformers"] += 1
            continue
        outcomes["compared"] += 1
        compare(folder, case.architecture, [*TEXTS, *random_texts(chance, 20)])
    assert outcomes["compared"] > 180, outcomes
    assert outcomes["not loaded by transformers"] < 10, outcomes


def test_every_class_of_transformers_is_known() -> None:
    """A class that is neither built nor refused would be taken for one that tokenizer.json describes in full."""
    names = {name for name in tokenization_auto.TOKENIZER_MAPPING_NAMES.values() if name}
    names |= {name for name in dir(__import__("transformers")) if name.endswith(("Tokenizer", "TokenizerFast"))}
    known = tokenizer_names.known_classes()
    for name in sorted(names - {"AutoTokenizer"}):
        found = tokenization_auto.tokenizer_class_from_name(name)
        if found is not None and found.__name__ not in {"TokenizersBackend", "PythonBackend"}:
            assert name.removesuffix("Fast") in known, name


def test_refused_classes_are_those_that_cannot_be_built() -> None:
    for name in tokenizer_names.known_classes() - tokenizer_names.BUILT:
        found = tokenization_auto.tokenizer_class_from_name(name)
        assert found is not None, name
    for name in tokenizer_names.BUILT:
        assert issubclass(tokenization_auto.tokenizer_class_from_name(name), TokenizersBackend)


def test_architectures_have_the_classes_of_transformers() -> None:
    mapping = tokenization_auto.TOKENIZER_MAPPING_NAMES
    for architecture, name in tokenizer_names.BY_ARCHITECTURE.items():
        theirs = mapping.get(architecture)
        assert name == ("TokenizersBackend" if theirs == "MistralCommonBackend" else theirs), architecture
    wrong = tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert wrong >= tokenizer_names.ARCHITECTURE_COUNTS
    for architecture in ("llama", "eurobert", "new", "xlm-roberta-flash"):
        assert architecture not in mapping
    missing = (mapping.keys() & wrong & tokenizer_names.BY_ARCHITECTURE.keys()) - tokenizer_names.ARCHITECTURE_COUNTS
    assert not missing

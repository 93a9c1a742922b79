"""Every tokenizer class against the ids that transformers gave, and what is refused."""

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrt import EmbedrtError, ExportError, UnsupportedModelError
from embedrt_export.tokenizer import BuiltTokenizer, build_tokenizer
from embedrt_export.tokenizer.names import tokenizer_class
from embedrt_export.tokenizer.scores import score_text
from embedrt_export.tokenizer.sentencepiece import merges_of, read_sentencepiece
from tests.kit.edits import edit_json
from tests.kit.models import write_json
from tests.kit.tokenizer_cases import CASES, GOLDEN, PAIRS, TEXTS, VOCABULARIES, plain, token, typed, write_case

CONFIG = "tokenizer_config.json"
ROWS = 10_000
STORED = json.loads(GOLDEN.read_text(encoding="utf-8"))


def settle(folder: Path, architecture: str = "llama", **keywords: Any) -> BuiltTokenizer:
    return build_tokenizer(folder, architecture, ROWS, do_lower_case=False, **keywords)


def encoder(settled: BuiltTokenizer) -> Any:
    tokenizer = tokenizers.Tokenizer.from_str(settled.definition)
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        write_case(tmp_path / name, name)
        return tmp_path / name

    return write


def test_the_stored_ids_are_of_these_cases() -> None:
    assert STORED["texts"] == TEXTS
    assert set(STORED["cases"]) == set(STORED["pairs"]) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers(name: str, write: Callable[[str], Path]) -> None:
    tokenizer = encoder(settle(write(name), CASES[name].architecture))
    expected = [STORED["ids"][i] for i in STORED["cases"][name]]
    assert [tokenizer.encode(text).ids for text in TEXTS] == expected


@pytest.mark.parametrize("name", CASES)
def test_pairs_are_those_of_transformers(name: str, write: Callable[[str], Path]) -> None:
    settled = settle(write(name), CASES[name].architecture, pairs=True)
    encodings = [encoder(settled).encode(*pair) for pair in PAIRS]
    assert [encoding.ids for encoding in encodings] == [STORED["ids"][i] for i in STORED["pairs"][name]]
    if settled.tokenization.token_type_ids:
        assert [encoding.type_ids for encoding in encodings] == STORED["types"][name]
    else:
        assert not any(map(any, STORED["types"][name] or []))


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-plain")])
def test_a_class_makes_its_own_parts(name: str, write: Callable[[str], Path]) -> None:
    """The stored tokenizer.json as it stands gives other ids, so the comparisons above can fail."""
    folder = write(name)
    as_it_stands = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [as_it_stands.encode(text).ids for text in TEXTS]
    same = [encoder(settle(folder)).encode(text).ids for text in TEXTS] == ids
    assert same is (CASES[name].kind == "PreTrainedTokenizerFast")


@pytest.mark.parametrize("name", ["LlamaTokenizer-extra", "Qwen2Tokenizer-listed", "T5Tokenizer-plain-files"])
def test_settling_twice_changes_nothing(name: str, write: Callable[[str], Path]) -> None:
    folder = write(name)
    once = settle(folder)
    (folder / "tokenizer.json").write_text(once.definition, encoding="utf-8")
    write_json(folder / CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast"})
    assert settle(folder).definition == once.definition


def test_special_token_counts_and_padding(write: Callable[[str], Path]) -> None:
    counts = {"BertTokenizer": 2, "T5Tokenizer": 1, "GPT2Tokenizer": 2, "LlamaTokenizer": 1, "XLMRobertaTokenizer": 2}
    for kind, count in counts.items():
        assert settle(write(f"{kind}-plain")).special_tokens == count
    without = {"GPT2Tokenizer": 0, "LlamaTokenizer": 0, "GemmaTokenizer": 0, "AlbertTokenizer": 2}
    for kind, count in without.items():  # no tokenizer.json that says what goes around a text
        assert settle(write(f"{kind}-plain-files")).special_tokens == count
    assert settle(write("LlamaTokenizer-bos-eos-files")).special_tokens == 2
    assert settle(write("LlamaTokenizer-bos-eos")).special_tokens == 1  # tokenizer.json wins
    settled = settle(write("padding-and-truncation"))
    assert settled.tokenization.pad_id == 2
    assert settled.tokenization.padding_side == "right"
    assert json.loads(settled.definition)["truncation"]["direction"] == "Left"
    assert settled.model_max_length is None


@pytest.mark.parametrize("kind", ["MPNetTokenizer", "CamembertTokenizer"])
def test_mask_token_takes_the_space_before_it(kind: str, write: Callable[[str], Path]) -> None:
    added = json.loads(settle(write(f"{kind}-plain-files")).definition)["added_tokens"]
    assert [token["content"] for token in added if token["lstrip"]] == ["<mask>"]


def test_longest_word_of_wordpiece(write: Callable[[str], Path]) -> None:
    """The class's own limit, whatever tokenizer.json says."""
    tokenizer = encoder(settle(write("BertTokenizer-plain")))
    assert len(tokenizer.encode("a" * 100).ids) == 102
    assert tokenizer.encode("a" * 101).tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_a_token_that_the_vocabulary_lacks(write: Callable[[str], Path]) -> None:
    """transformers adds it, and the model may have no row for it."""
    folder = write("BertTokenizer-plain")
    edit_json(folder / CONFIG, pad_token="[NEW]")
    rows = len(plain("bert")["model"]["vocab"])
    with pytest.raises(ExportError, match=rf"token '\[NEW\]' has id {rows}, but the model has only {rows} word emb"):
        build_tokenizer(folder, "bert", rows, do_lower_case=False)
    settled = build_tokenizer(folder, "bert", rows + 1, do_lower_case=False)
    assert settled.tokenization.pad_id == rows
    assert encoder(settled).encode("a[NEW]b", add_special_tokens=False).tokens == ["a", "[NEW]", "b"]


# What the class is where nothing, or something, names it.
@pytest.mark.parametrize(
    ("named", "architecture", "expected"),
    [
        (None, "bert", "BertTokenizer"),
        (None, "nomic_bert", "BertTokenizer"),
        (None, "new", "TokenizersBackend"),
        (None, "xlm-roberta-flash", "XLMRobertaTokenizer"),
        (None, "eurobert", "TokenizersBackend"),
        ("XLMRobertaTokenizerFast", "bert", "XLMRobertaTokenizer"),
        ("PreTrainedTokenizerFast", "bert", "TokenizersBackend"),
        ("BertTokenizer", "xlm-roberta-xl", "TokenizersBackend"),
        ("BertTokenizer", "modernbert", "TokenizersBackend"),
        ("LlamaTokenizerFast", "mistral", "TokenizersBackend"),
        ("LlamaTokenizer", "llama", "LlamaTokenizer"),
        ("LlamaTokenizer", "qwen2", "Qwen2Tokenizer"),
        ("ElectraTokenizerFast", "electra", "BertTokenizer"),
        ("NeverHeardOfTokenizer", "bert", "TokenizersBackend"),
    ],
)
def test_class(named: str | None, architecture: str, expected: str) -> None:
    assert tokenizer_class(named, architecture, None, is_byte_level=False, remote=False) == expected


def test_class_of_byte_level_llama_and_of_a_named_model() -> None:
    assert tokenizer_class("LlamaTokenizer", "llama", None, is_byte_level=True, remote=False) == "TokenizersBackend"
    assert tokenizer_class("BertTokenizer", "roberta", "x", is_byte_level=False, remote=False) == "BertTokenizer"
    found = tokenizer_class("BertTokenizer", "roberta", "camembertv2-base", is_byte_level=False, remote=False)
    assert found == "RobertaTokenizer"


def test_class_that_config_json_names(write: Callable[[str], Path]) -> None:
    folder = write("default-llama")
    edit_json(folder / "config.json", tokenizer_class="LlamaTokenizer")
    expected = settle(write("LlamaTokenizer-plain"))
    assert encoder(settle(folder)).encode("A  fox").ids == encoder(expected).encode("A  fox").ids
    assert json.loads(settle(folder).definition)["pre_tokenizer"]["split"] is False


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BertJapaneseTokenizer", "splits words .* choose a model with another tokenizer"),
        ("RoFormerTokenizerFast", "splits words .* choose a model with another tokenizer"),
        ("PhobertTokenizer", "is Python code.*convert it to a tokenizer.json"),
        ("BertweetTokenizer", "is Python code"),
        ("ByT5Tokenizer", "is Python code"),
        (
            "NllbTokenizerFast",
            "not supported; known: AlbertTokenizer, .*set tokenizer_class to PreTrained",
        ),
        ("DebertaTokenizer", "not supported; known"),
    ],
)
def test_class_that_is_not_built(name: str, message: str, write: Callable[[str], Path]) -> None:
    folder = write("fast-in-bert")
    edit_json(folder / CONFIG, tokenizer_class=name)
    with pytest.raises(UnsupportedModelError, match=f"^tokenizer_class {name.removesuffix('Fast')}: .*{message}"):
        settle(folder, "bert")


def test_a_class_of_the_repo_is_not_run(write: Callable[[str], Path]) -> None:
    """Where transformers knows the class or the architecture it takes its own; else there is nothing to go by."""
    folder = write("BertTokenizer-plain")
    expected = settle(folder)
    for auto_map in ({"AutoTokenizer": ["x.Slow", "x.Fast"]}, ["x.Slow", None]):
        edit_json(folder / CONFIG, auto_map=auto_map)
        assert settle(folder) == expected
    edit_json(folder / CONFIG, tokenizer_class="OurTokenizer")
    with pytest.raises(UnsupportedModelError, match=r"auto_map makes the class OurTokenizer code of the repo"):
        settle(folder, "new")
    edit_json(folder / CONFIG, auto_map={"AutoModel": "x.Model"})
    assert json.loads(settle(folder, "new").definition)["pre_tokenizer"] == {"type": "Whitespace"}


def test_static_embeddings_take_the_tokenizer_as_it_stands(write: Callable[[str], Path]) -> None:
    folder = write("BertTokenizer-plain")
    (folder / CONFIG).unlink()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    settled = settle(folder, special_tokens=False)
    assert settled.special_tokens == 0
    assert settled.model_max_length is None
    tokenizer.no_padding()
    for text in TEXTS:
        assert encoder(settled).encode(text).ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert encoder(settled).encode("a" * 10_000).ids == [1]
    # A stored truncation stays in force there, so it is the limit.
    tokenizer.enable_truncation(3, direction="left")
    tokenizer.save(str(folder / "tokenizer.json"))
    settled = settle(folder, special_tokens=False)
    assert settled.model_max_length == 3
    assert json.loads(settled.definition)["truncation"]["direction"] == "Left"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json, which static embeddings need"):
        settle(folder, special_tokens=False)


TOKEN = {"content": "x"}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a token that is a number": ("BertTokenizer-plain", {"cls_token": 3}, "cls_token: expected a string or an object"),
    "a token without a type": ("BertTokenizer-plain", {"cls_token": TOKEN}, "cls_token: expected a string or an ob"),
    "a token without text": ("BertTokenizer-plain", {"cls_token": {"__type": "AddedToken"}}, "missing field 'content'"),
    "an unknown property": ("BertTokenizer-plain", {"cls_token": {**typed("x"), "y": 1}}, "unknown field 'y'"),
    "an extra number": ("BertTokenizer-plain", {"extra_special_tokens": [1]}, "extra_special_tokens: expected a str"),
    "extra text": ("BertTokenizer-plain", {"extra_special_tokens": "x"}, "extra_special_tokens: expected a list"),
    "an id that is none": ("BertTokenizer-plain", {"added_tokens_decoder": {"x": TOKEN}}, "'x' is not a token id"),
    "listed as a list": ("BertTokenizer-plain", {"added_tokens_decoder": []}, "added_tokens_decoder: expected an ob"),
    "an empty cls": ("BertTokenizer-plain", {"cls_token": ""}, "special token '' has no id"),
    "no cls": ("BertTokenizer-plain", {"cls_token": None}, "cls_token is null, but this tokenizer's class needs it"),
    "no bos": ("XLMRobertaTokenizer-plain", {"bos_token": None}, "bos_token is null"),
    "another unk": ("BertTokenizer-plain", {"unk_token": "<unk>"}, "no token '<unk>', the unk_token"),
    "another cls": ("AlbertTokenizer-plain", {"cls_token": "<s>"}, "no token '<s>', the cls_token"),
    "a null prefix": ("GPT2Tokenizer-plain", {"add_prefix_space": None}, "add_prefix_space is null"),
    "sentinels": (
        "T5Tokenizer-plain",
        {"extra_ids": 5, "additional_special_tokens": ["<extra_id_0>"], "extra_special_tokens": ["x"]},
        "extra_ids 5, but 1 such",
    ),
    "split special tokens": ("BertTokenizer-plain", {"split_special_tokens": True}, "split_special_tokens is not sup"),
    "another regex": ("LlamaTokenizer-plain", {"fix_mistral_regex": True}, "fix_mistral_regex is not supported"),
    "a vocabulary": ("LlamaTokenizer-plain", {"vocab": {"a": 0}}, "vocab is not supported"),
    "versions": ("BertTokenizer-plain", {"fast_tokenizer_files": ["tokenizer.4.0.json"]}, "fast_tokenizer_files"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, write: Callable[[str], Path]) -> None:
    case, changes, message = REFUSED[name]
    folder = write(case)
    edit_json(folder / CONFIG, **changes)
    with pytest.raises(ExportError, match=message):
        settle(folder)


def test_a_vocabulary_of_another_kind(write: Callable[[str], Path]) -> None:
    folder = write("BertTokenizer-plain")
    edit_json(folder / CONFIG, tokenizer_class="XLMRobertaTokenizer")
    with pytest.raises(
        ExportError, match=r"^tokenizer\.json: a vocabulary without scores, which .*set tokenizer_class"
    ):
        settle(folder)
    folder = write("LlamaTokenizer-plain-files")
    edit_json(folder / CONFIG, tokenizer_class="MPNetTokenizer", unk_token="<unk>")
    with pytest.raises(ExportError, match=r"^tokenizer\.model: scored pieces, where .*set tokenizer_class"):
        settle(folder)


def test_special_tokens_map_in_which_special_is_said(write: Callable[[str], Path]) -> None:
    folder = write("BertTokenizer-plain")
    write_json(folder / "special_tokens_map.json", {"extra_special_tokens": [token("x")]})
    with pytest.raises(ExportError, match=r"^special_tokens_map\.json: extra_special_tokens: special is implied"):
        settle(folder)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("RobertaTokenizer-plain-files", ["merges.txt"]),
        ("RobertaTokenizer-plain-files", ["vocab.json"]),
        ("XLMRobertaTokenizer-plain-files", ["sentencepiece.bpe.model"]),
        ("PreTrainedTokenizerFast-plain-files", ["tokenizer.model"]),
    ],
)
def test_missing_vocabulary(name: str, files: list[str], write: Callable[[str], Path]) -> None:
    folder = write(name)
    for file in files:
        (folder / file).unlink()
    with pytest.raises(UnsupportedModelError, match=rf"no tokenizer\.json and no .*{files[0]}.* for a .*save_pretr"):
        settle(folder)


def test_foreign_vocabulary(write: Callable[[str], Path]) -> None:
    folder = write("LlamaTokenizer-plain-files")
    (folder / "tekken.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json, and tekken\.json cannot be read"):
        settle(folder)


def test_tokenizer_model_comes_before_the_file_of_the_class(write: Callable[[str], Path]) -> None:
    folder = write("XLMRobertaTokenizer-plain-files")
    shutil.copyfile(VOCABULARIES / "t5.model", folder / "tokenizer.model")
    (folder / "sentencepiece.bpe.model").write_bytes(b"never read")
    assert encoder(settle(folder)).token_to_id("▁the") == encoder(settle(folder)).get_vocab()["▁the"]


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("RobertaTokenizer-plain-files", "merges.txt", "#version: 0.2\na b c\n"),
        ("RobertaTokenizer-plain-files", "merges.txt", "#version: 0.2\n千 里\n"),
        ("RobertaTokenizer-plain-files", "vocab.json", "[]"),
        ("RobertaTokenizer-plain-files", "vocab.json", '{"a": "b"}'),
        ("BertTokenizer-plain-files", "vocab.txt", b"\xff\xfe"),
        ("BertTokenizer-plain-files", "vocab.txt", ""),
    ],
)
def test_damaged_vocabulary(name: str, file: str, content: str | bytes, write: Callable[[str], Path]) -> None:
    folder = write(name)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        ExportError, match=rf"{file.split('.', maxsplit=1)[0] if 'merges' not in file else 'vocab'}.*: "
    ):
        settle(folder)


def test_sentencepiece_fields() -> None:
    model = read_sentencepiece(VOCABULARIES / "bpe.model")
    assert model.pieces[:3] == [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    assert model.symbols[:4] == [("<s>", True), ("</s>", True), ("<user>", False), ("  ", False)]
    assert model.byte_fallback
    assert model.model_type == 2
    assert model.named == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    assert (model.unk_id, model.unk_piece) == (0, "<unk>")
    unigram = read_sentencepiece(VOCABULARIES / "albert.model")
    assert unigram.pieces[1] == ("<unk>", 0.0)
    assert unigram.named == {"unk_token": "<unk>"}  # the ids of the others are -1
    assert unigram.unk_id == 1
    assert len(unigram.charsmap) > 100


def test_merges_of_a_vocabulary() -> None:
    ids = {"abc": 5, "a": 0, "b": 1, "c": 2, "ab": 4, "bc": 3}
    assert merges_of(ids) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


PIECE = _field(1, _field(1, b"a") + b"\x15" + struct.pack("<f", -1.5))
HOSTILE = {
    "empty": b"",
    "not a protobuf": b"version https://git-lfs.github.com/spec/v1\n",
    "a group": b"\x0b",
    "a number that never ends": b"\x08" + b"\xff" * 11,
    "ends in a number": b"\x08\xff",
    "longer than the file": b"\x0a\xff\xff\xff\xff\x0f",
    "a piece that is a number": b"\x08\x01",
    "text that is a number": _field(1, b"\x08\x01"),
    "text that is not UTF-8": _field(1, _field(1, b"\xff")),
    "a score of one byte": _field(1, _field(1, b"a") + _field(2, b"x")),
    "an id that is text": PIECE + b"\x12\x04" + b"\xc2\x02\x01x",
    "field 0": b"\x00\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sentencepiece(name: str, write: Callable[[str], Path]) -> None:
    folder = write("XLMRobertaTokenizer-plain-files")
    (folder / "sentencepiece.bpe.model").write_bytes(HOSTILE[name])
    with pytest.raises(ExportError, match=r"^sentencepiece\.bpe\.model: "):
        settle(folder)


def test_a_charsmap_that_is_none(write: Callable[[str], Path]) -> None:
    folder = write("XLMRobertaTokenizer-plain-files")
    for charsmap in (b"\xff\xff\xff\xff", b"\x04\0\0\0\xff\xff\xff\xff", b"\0\0\0\0", b"x"):
        (folder / "sentencepiece.bpe.model").write_bytes(PIECE * 5 + _field(3, _field(2, charsmap)))
        with suppress(ExportError):
            settle(folder)


def test_a_piece_of_endless_length(tmp_path: Path) -> None:
    """It would take hours to split it everywhere."""
    text = b"a" * 10**6
    size = b"\xc0\x84\x3d"
    piece = b"\x0a" + size + text
    (tmp_path / "x.model").write_bytes(b"\x0a\xc4\x84\x3d" + piece)
    with pytest.raises(ExportError, match=r"^x\.model: .*a piece of 1000000 characters"):
        read_sentencepiece(tmp_path / "x.model")


def _pieces(count: int) -> bytes:
    """A SentencePiece model whose scores need all digits."""
    scores = np.random.default_rng(0).uniform(-30, -1e-3, count).astype("<f4")
    model = b""
    for i, score in enumerate(scores):
        model += _field(1, _field(1, f"t{i}".encode()) + b"\x15" + score.tobytes())
    return model


def _scores_read_back(settled: BuiltTokenizer) -> list[float]:
    vocabulary = json.loads(tokenizers.Tokenizer.from_str(settled.definition).to_str())["model"]["vocab"]
    return [score for _, score in vocabulary]


def test_scores_are_exact(write: Callable[[str], Path]) -> None:
    """transformers passes floats; the library's parser of JSON would miss one in ten by the last bit."""
    folder = write("AlbertTokenizer-plain-files")
    path = folder / "spiece.model"
    path.write_bytes(path.read_bytes() + _pieces(5000))
    expected = [score for _, score in read_sentencepiece(path).pieces]
    assert sum(np.array(_scores_read_back(settle(folder))) != expected) <= 15

    definition = plain("albert")
    definition["model"]["vocab"] = [[piece, score] for piece, score in read_sentencepiece(path).pieces]
    write_json(folder / "tokenizer.json", definition)
    assert sum(np.array(_scores_read_back(settle(folder))) != expected) <= 15

    # What stays as it stands keeps its digits, and so has what the parser makes of them.
    edit_json(folder / CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    as_it_stands = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = _scores_read_back(settle(folder))
    assert found == [score for _, score in json.loads(as_it_stands.to_str())["model"]["vocab"]]
    assert sum(np.array(found) != expected) > 300


@given(score=st.floats(-1e300, 1e300, allow_nan=False))
def test_a_score_is_the_same_float_for_every_exact_parser(score: float) -> None:
    assert float(score_text(score)) == score


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_sentencepiece_model_gives_an_error_of_ours_or_a_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    write_case(folder, "XLMRobertaTokenizer-plain-files")
    path = folder / "sentencepiece.bpe.model"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(EmbedrtError):
        encoder(settle(folder)).encode("the fox <user>")
    shutil.rmtree(folder)


TOKENS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.sampled_from(["", "a", "<s>", "AddedToken", "[CLS]"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["__type", "content", "lstrip", "special", "1", "x_token"]), inner, max_size=4),
    ),
    max_leaves=6,
)
KEYS = [
    "cls_token",
    "unk_token",
    "extra_special_tokens",
    "additional_special_tokens",
    "added_tokens_decoder",
    "y_token",
]
FILES = [CONFIG, "special_tokens_map.json", "added_tokens.json"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(file=st.sampled_from(FILES), content=st.dictionaries(st.sampled_from(KEYS), TOKENS, max_size=4))
def test_any_tokens_give_an_error_of_ours_or_a_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, file: str, content: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    write_case(folder, "AlbertTokenizer-plain")
    write_json(folder / file, {"tokenizer_class": "AlbertTokenizer", **content} if file == CONFIG else content)
    with suppress(EmbedrtError):
        assert encoder(settle(folder)).encode("the fox").ids
    shutil.rmtree(folder)


def test_plain_vocabularies_have_every_letter_once() -> None:
    for source in ("bert", "mpnet", "bytes", "fairseq", "albert", "t5", "bpe"):
        vocabulary = plain(source)["model"]["vocab"]
        pieces = [piece[0] for piece in vocabulary] if isinstance(vocabulary, list) else list(vocabulary)
        assert len(pieces) == len(set(pieces))

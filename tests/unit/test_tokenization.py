"""The tokenizer as transformers would set it up, settled into one `tokenizer.json`."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrt import EmbedrtError, ExportError, UnsupportedModelError
from embedrt_export.tokenizer import BuiltTokenizer, build_tokenizer
from tests.kit.edits import edit_json
from tests.kit.models import make_model, vocabulary, write_json

ROWS = len(vocabulary("bert"))
CONFIG = "tokenizer_config.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def settle(
    folder: Path, architecture: str = "bert", rows: int = ROWS, *, do_lower_case: bool = False
) -> BuiltTokenizer:
    return build_tokenizer(folder, architecture, rows, do_lower_case=do_lower_case)


def tokens(settled: BuiltTokenizer, text: str) -> list[str]:
    found: list[str] = tokenizers.Tokenizer.from_str(settled.definition).encode(text, add_special_tokens=False).tokens
    return found


def definition(settled: BuiltTokenizer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(settled.definition)
    return content


@pytest.mark.parametrize("class_name", ["BertTokenizer", "BertTokenizerFast", "MPNetTokenizer", "MPNetTokenizerFast"])
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_wordpiece_classes_follow_the_config(tmp_path: Path, class_name: str, architecture: str) -> None:
    """Whatever tokenizer.json says, these classes build their normalizer from tokenizer_config.json."""
    model = make_model(tmp_path / "model", "bert" if class_name.startswith("Bert") else "mpnet")
    stored = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    edit_json(model / "tokenizer.json", normalizer={**stored, "lowercase": False}, pre_tokenizer={"type": "Whitespace"})
    edit_json(model / CONFIG, tokenizer_class=class_name)

    assert tokens(settle(model, architecture), "CAT") == ["cat"]
    assert tokens(settle(model, architecture), "catÄ") == ["cat", "##a"]
    assert definition(settle(model, architecture))["pre_tokenizer"] == {"type": "BertPreTokenizer"}
    edit_json(model / CONFIG, strip_accents=False)
    assert tokens(settle(model, architecture), "Ä") == ["ä"]
    edit_json(model / CONFIG, do_lower_case=False)
    assert tokens(settle(model, architecture), "CAT") == ["[UNK]"]
    assert tokens(settle(model, architecture), "ä cat") == ["ä", "cat"]
    edit_json(model / CONFIG, strip_accents=True)
    assert tokens(settle(model, architecture), "ä") == ["a"]
    assert tokens(settle(model, architecture), "千里") == ["千", "里"]
    edit_json(model / CONFIG, tokenize_chinese_chars=False)
    assert tokens(settle(model, architecture), "千里") == ["[UNK]"]


def test_defaults_of_the_wordpiece_classes(model: Path) -> None:
    write_json(model / CONFIG, {"tokenizer_class": "BertTokenizer"})
    edit_json(model / "tokenizer.json", normalizer=None)
    assert definition(settle(model))["normalizer"] == {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_without_a_class_the_architecture_names_it(tmp_path: Path, architecture: str) -> None:
    model = make_model(tmp_path / "model", architecture)
    edit_json(model / "tokenizer.json", normalizer=None)
    (model / CONFIG).unlink()
    settled = settle(model, architecture)
    assert tokens(settled, "CAT") == ["cat"]
    assert settled.model_max_length is None


@pytest.mark.parametrize("class_name", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_other_classes_follow_tokenizer_json(model: Path, class_name: str) -> None:
    edit_json(model / CONFIG, tokenizer_class=class_name, do_lower_case=True, strip_accents=True)
    edit_json(model / "tokenizer.json", normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"})
    settled = settle(model)
    assert definition(settled)["normalizer"] is None
    assert definition(settled)["pre_tokenizer"] == {"type": "WhitespaceSplit"}
    assert tokens(settled, "ä CAT") == ["ä", "[UNK]"]


STRIP = {"type": "StripAccents"}
LOWER = {"type": "Lowercase"}


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, [LOWER]),
        (STRIP, [LOWER, STRIP]),
        ({"type": "Sequence", "normalizers": [STRIP]}, [LOWER, STRIP]),
        ({"type": "Sequence", "normalizers": [STRIP, LOWER]}, [STRIP, LOWER]),
        (LOWER, [LOWER]),
    ],
)
def test_lowercase_of_the_module_comes_first_and_once(model: Path, normalizer: Any, expected: list[Any]) -> None:
    edit_json(model / CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    edit_json(model / "tokenizer.json", normalizer=normalizer)
    settled = settle(model, do_lower_case=True)
    assert definition(settled)["normalizer"] == {"type": "Sequence", "normalizers": expected}
    assert tokens(settled, "CAT") == ["cat"]


def test_lowercase_of_the_module_before_a_cased_wordpiece(model: Path) -> None:
    edit_json(model / CONFIG, do_lower_case=False)
    assert tokens(settle(model), "CAT") == ["[UNK]"]
    assert tokens(settle(model, do_lower_case=True), "CAT") == ["cat"]


def test_stored_padding_and_truncation_are_taken_out(model: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(model / "tokenizer.json"))

    settled = settle(model)

    assert definition(settled)["padding"] is None
    assert tokens(settled, "a b c d e f") == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("in_config", "in_tokenizer", "expected"),
    [
        (..., None, "Right"),
        ("left", None, "Left"),
        (..., "Left", "Left"),
        ("right", "Left", "Right"),
        ("left", "Right", "Left"),
    ],
)
def test_truncation_side(model: Path, in_config: Any, in_tokenizer: str | None, expected: str) -> None:
    stored = {"direction": in_tokenizer, "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    edit_json(model / "tokenizer.json", truncation=stored if in_tokenizer else None)
    edit_json(model / CONFIG, truncation_side=in_config)
    settled = settle(model)
    assert definition(settled)["truncation"]["direction"] == expected
    tokenizer = tokenizers.Tokenizer.from_str(settled.definition)
    assert (tokenizer.truncation or {})["direction"] == expected.lower()


@pytest.mark.parametrize(
    ("pad_token", "expected"),
    [
        ("[MASK]", 4),
        ({"content": "[SEP]", "lstrip": False, "single_word": False, "__type": "AddedToken"}, 3),
        (..., 0),
        (None, 0),
    ],
)
def test_pad_token(model: Path, pad_token: Any, expected: int) -> None:
    edit_json(model / CONFIG, pad_token=pad_token)
    assert settle(model).tokenization.pad_id == expected


def test_pad_token_of_the_class_and_of_the_stored_padding(tmp_path: Path) -> None:
    model = make_model(tmp_path / "mpnet", "mpnet")
    edit_json(model / CONFIG, pad_token=...)
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=4, pad_token="<mask>")
    tokenizer.save(str(model / "tokenizer.json"))
    assert settle(model, "mpnet").tokenization.pad_id == 1
    edit_json(model / CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    assert settle(model, "mpnet").tokenization.pad_id == 4


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(128, 128), (1e30, None), (1000000000000000019884624838656, None), (..., None), (None, None)],
)
def test_model_max_length(model: Path, stored: Any, expected: int | None) -> None:
    edit_json(model / CONFIG, model_max_length=stored)
    assert settle(model).model_max_length == expected


def test_token_beyond_the_embedding_table(model: Path) -> None:
    with pytest.raises(ExportError, match=f"token '##z' has id {ROWS - 1}, but the model has only {ROWS - 1} word emb"):
        settle(model, rows=ROWS - 1)
    content = json.loads((model / "tokenizer.json").read_bytes())
    content["model"]["vocab"]["<added>"] = ROWS
    write_json(model / "tokenizer.json", content)
    with pytest.raises(ExportError, match=f"token '<added>' has id {ROWS}, but the model has only {ROWS} word emb"):
        settle(model)
    assert settle(model, rows=ROWS + 1).tokenization.embedding_rows == ROWS + 1


def test_type_ids_only_where_the_tokenizer_emits_them_and_the_config_names_them(model: Path) -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit_json(model / CONFIG, model_input_names=names, tokenizer_class="PreTrainedTokenizerFast")
    assert not settle(model).tokenization.token_type_ids  # they are all 0
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:1 [SEP]:1",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(model / "tokenizer.json"))
    assert settle(model).tokenization.token_type_ids
    edit_json(model / CONFIG, tokenizer_class="BertTokenizer")
    assert not settle(model).tokenization.token_type_ids  # the class has a post-processor of its own
    edit_json(model / CONFIG, model_input_names=["input_ids", "attention_mask"], tokenizer_class="TokenizersBackend")
    assert not settle(model).tokenization.token_type_ids


def test_padding_is_on_the_right(model: Path) -> None:
    edit_json(model / CONFIG, padding_side="left")
    assert settle(model).tokenization.padding_side == "right"


def test_settling_twice_changes_nothing(model: Path) -> None:
    edit_json(model / CONFIG, truncation_side="left")
    once = settle(model, do_lower_case=True)
    (model / "tokenizer.json").write_text(once.definition)
    edit_json(model / CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    assert settle(model, do_lower_case=True).definition == once.definition


def test_no_tokenizer_json(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"^model: no tokenizer\.json and no vocab\.txt .*save_pretrained"):
        settle(model)
    (model / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(ExportError, match=r"^vocab\.txt: no token '\[UNK\]', the unk_token; name the right one"):
        settle(model)


def test_max_len_is_an_old_name_of_the_limit(model: Path) -> None:
    edit_json(model / CONFIG, model_max_length=..., max_len=17)
    assert settle(model).model_max_length == 17
    edit_json(model / CONFIG, model_max_length=19)
    assert settle(model).model_max_length == 19


CANNOT_READ = r"^tokenizer\.json: tokenizers \S+ cannot read it: "
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not JSON": (lambda model: (model / "tokenizer.json").write_bytes(b"{"), CANNOT_READ),
    "truncated": (
        lambda model: (model / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes()[:-9]),
        CANNOT_READ,
    ),
    "damage that the library reads past": (
        lambda model: (model / "tokenizer.json").write_bytes(
            (model / "tokenizer.json").read_bytes().replace(b'"decoder"', b'"##x", "decoder"', 1)
        ),
        r"^tokenizer\.json: not valid JSON",
    ),
    "not UTF-8": (lambda model: (model / "tokenizer.json").write_bytes(b"\xff\xfe"), CANNOT_READ),
    "empty": (lambda model: (model / "tokenizer.json").write_bytes(b""), CANNOT_READ),
    "a list": (lambda model: write_json(model / "tokenizer.json", []), CANNOT_READ),
    "no model": (
        lambda model: edit_json(model / "tokenizer.json", model=...),
        CANNOT_READ,
    ),
    "unknown model": (
        lambda model: edit_json(model / "tokenizer.json", model={"type": "Morse", "vocab": {}}),
        CANNOT_READ,
    ),
    "config not JSON": (lambda model: (model / CONFIG).write_bytes(b"]"), rf"^{CONFIG}: not valid JSON"),
    "config a string": (lambda model: write_json(model / CONFIG, "x"), rf"^{CONFIG}: expected an object, got str"),
    "side": (lambda model: edit_json(model / CONFIG, truncation_side="up"), rf"^{CONFIG}.truncation_side: expected"),
    "lower": (lambda model: edit_json(model / CONFIG, do_lower_case="yes"), rf"^{CONFIG}.do_lower_case: expected a b"),
    "length": (lambda model: edit_json(model / CONFIG, model_max_length="9"), rf"^{CONFIG}.model_max_length: expect"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(model: Path, name: str) -> None:
    damage, message = REFUSED[name]
    damage(model)
    with pytest.raises(ExportError, match=message):
        settle(model)


TEXTS = st.one_of(
    st.sampled_from(["type", "normalizers", "direction", "pad_token", "content", "Lowercase", "Sequence", "left"]),
    st.text(st.characters(), max_size=5),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("fuzz") / "model")
    edit_json(folder / CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    return folder


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("file", ["tokenizer.json", CONFIG])
def test_any_json_gives_an_error_of_ours_or_a_tokenizer(untouched: Path, file: str, data: st.DataObject) -> None:
    """Files with one value replaced by any JSON."""
    original = (untouched / file).read_bytes()
    content = json.loads(original)
    known = sorted({*content, "tokenizer_class", "model_max_length", "truncation_side"} - {"vocab"})
    content[data.draw(st.sampled_from(known))] = data.draw(VALUES)
    try:
        write_json(untouched / file, content)
        with suppress(EmbedrtError):
            settled = settle(untouched, do_lower_case=data.draw(st.booleans()))
            assert tokens(settled, "the cat") is not None
            assert settled.model_max_length is None or settled.model_max_length > 0
    finally:
        (untouched / file).write_bytes(original)


@pytest.mark.parametrize("limit", [0, -1, -(10**12)])
def test_a_limit_that_is_none(model: Path, limit: int) -> None:
    edit_json(model / CONFIG, model_max_length=limit)
    with pytest.raises(ExportError, match=rf"^{CONFIG}: model_max_length {limit} is not a length$"):
        settle(model)


@pytest.mark.parametrize("part", ["normalizer", "truncation", "padding"])
@pytest.mark.parametrize("value", ["x", 1, [1], {"normalizers": "x", "direction": 1, "pad_token": 1}])
def test_a_part_of_another_kind(model: Path, part: str, value: Any) -> None:
    edit_json(model / CONFIG, tokenizer_class="PreTrainedTokenizerFast", pad_token=...)
    edit_json(model / "tokenizer.json", **{part: value})
    with pytest.raises(ExportError, match=CANNOT_READ):
        settle(model, do_lower_case=True)


def test_tokenizer_larger_than_any_config(model: Path) -> None:
    """XLM-R's vocabulary of 250,000 makes a file of 17 MB."""
    raw = (model / "tokenizer.json").read_bytes()
    expected = settle(model)
    (model / "tokenizer.json").write_bytes(raw + b" " * 17 * 2**20)
    assert settle(model) == expected

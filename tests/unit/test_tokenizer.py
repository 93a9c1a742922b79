"""Texts to token ids: what is accepted, where texts are cut off, and that a shortcut changes nothing."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedrt import BundleError, InferenceError
from embedrt.inputs.check import check_texts, preview
from embedrt.inputs.text import TextTokenizer, Tokens
from tests.kit.library_failures import failing

COLLECTIONS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda texts: (text for text in texts),
    "keys": lambda texts: dict.fromkeys(texts).keys(),
    "list of numpy strings": lambda texts: [np.str_(text) for text in texts],
    "array": np.array,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "Series": pd.Series,
    "Series of objects": lambda texts: pd.Series(texts, index=[7, 3], dtype=object),
    "extension array": lambda texts: pd.Series(texts).array,
    "Index": pd.Index,
}


class TestCheckTexts:
    def test_a_str_is_one_text(self) -> None:
        assert check_texts("a") == (["a"], True)
        assert check_texts(np.str_("a")) == (["a"], True)
        assert check_texts("") == ([""], True)

    @pytest.mark.parametrize("collection", COLLECTIONS)
    def test_ordered_collections(self, collection: str) -> None:
        assert check_texts(COLLECTIONS[collection](["a", "é"])) == (["a", "é"], False)

    @pytest.mark.parametrize("texts", [[], (), iter([]), np.array([], dtype=str), pd.Series([], dtype=str)])
    def test_nothing(self, texts: Any) -> None:
        assert check_texts(texts) == ([], False)

    @pytest.mark.parametrize(
        ("item", "kind"),
        [
            (None, "NoneType"),
            (float("nan"), "float"),
            (b"a", "bytes"),
            (3, "int"),
            (True, "bool"),
            (["a", "b"], "list"),
            (("a", "b"), "tuple"),
            ({"a": "b"}, "dict"),
            (pd.NA, "NAType"),
            (pd.NaT, "NaTType"),
            (np.int64(1), "int64"),
            (np.array(["a"]), "ndarray"),
        ],
        ids=lambda value: value if isinstance(value, str) else "item",
    )
    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_an_item_that_is_no_str_is_named_by_its_index(self, item: Any, kind: str, at: int) -> None:
        texts: list[Any] = ["a", "b"]
        texts.insert(at, item)
        with pytest.raises(TypeError) as caught:
            check_texts(texts)
        assert str(caught.value) == f"texts[{at}]: expected str, got {kind}"

    @pytest.mark.parametrize("missing", [None, pd.NA, float("nan")])
    @pytest.mark.parametrize("dtype", ["str", "object", "string"])
    def test_a_missing_value_in_a_series(self, missing: Any, dtype: str) -> None:
        with pytest.raises(TypeError, match=r"^texts\[1\]: expected str, got (float|NAType|NoneType)$"):
            check_texts(pd.Series(["a", missing, "b"], dtype=dtype))

    @pytest.mark.parametrize("texts", [None, 3, 3.5, True, b"a", {"a": 1}, {"a"}, frozenset("a"), object()])
    def test_what_is_no_ordered_collection(self, texts: Any) -> None:
        with pytest.raises(TypeError) as caught:
            check_texts(texts)
        assert str(caught.value) == (f"texts: expected str or an ordered collection of str, got {type(texts).__name__}")

    @pytest.mark.parametrize(
        "texts",
        [pd.DataFrame({"column": ["a"], "other": ["b"]}), np.array([["a", "b"]]), np.array("a")],
        ids=["DataFrame", "2-D", "0-D"],
    )
    def test_tables_are_refused(self, texts: Any) -> None:
        """A DataFrame iterates over its column names."""
        with pytest.raises(TypeError, match=r"^texts: expected str or an ordered collection of str, got \w+ of \d dim"):
            check_texts(texts)

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ("ab\ud800", r"texts: lone surrogate '\ud800' at character 2;"),
            (["a", "é\udfff"], r"texts[1]: lone surrogate '\udfff' at character 1;"),
            (["\ud83d\ude42", "a"], r"texts[0]: lone surrogate '\ud83d' at character 0;"),
        ],
    )
    def test_lone_surrogates(self, texts: Any, message: str) -> None:
        with pytest.raises(ValueError, match="surrogate") as caught:
            check_texts(texts)
        assert str(caught.value).startswith(message)
        str(caught.value).encode()

    def test_the_advice_about_surrogates_works(self) -> None:
        broken = "a\ud800b \ud83d\ude42"
        with pytest.raises(ValueError, match="surrogate") as caught:
            check_texts(broken)
        advice = str(caught.value).split("; ")[1].removesuffix(" replaces it")
        mended = eval(advice, {"text": broken})
        assert mended == "a\ufffdb 🙂"
        assert check_texts(mended) == ([mended], True)

    def test_the_argument_is_named_as_the_caller_names_it(self) -> None:
        with pytest.raises(TypeError, match=r"^queries\[0\]: expected str, got int$"):
            check_texts([1], "queries")

    def test_an_error_of_a_generator_is_the_callers(self) -> None:
        def failing() -> Iterator[str]:
            yield "a"
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match=r"^mine$"):
            check_texts(failing())


def test_preview_names_the_first_few() -> None:
    assert preview([3]) == "texts[3]"
    assert preview([0, 1, 2, 3, 4]) == "texts[0], texts[1], texts[2], texts[3], texts[4]"
    assert preview(range(10, 17)) == "texts[10], texts[11], texts[12], texts[13], texts[14] and 2 more"


def rows_of(tokens: Tokens) -> list[list[int]]:
    """The ids of each text, as a list."""
    return [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])] if len(tokens) else []


Plain = Callable[[str], tuple[list[int], bool]]


def plainly(path: Path, limit: int) -> Plain:
    """Ids and whether the text was cut off, from the whole text, by a tokenizer configured by hand."""
    cutting, whole = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
    cutting.no_padding()
    cutting.enable_truncation(limit)
    whole.no_padding()
    whole.no_truncation()

    def tokenize(text: str) -> tuple[list[int], bool]:
        return cutting.encode(text).ids, len(whole.encode(text).ids) > limit

    return tokenize


@pytest.fixture(scope="module", params=["tiny", "minilm", "mpnet"])
def tokenizer_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizers of the tiny BERT, of the real MiniLM and of a tiny MPNet."""
    from tests.kit.models import write_tokenizer

    if request.param != "mpnet":
        bundle: Path = request.getfixturevalue(f"{request.param}_bundle")
        return bundle / "tokenizer.json"
    folder = tmp_path_factory.mktemp("mpnet")
    write_tokenizer(folder, "mpnet")
    return folder / "tokenizer.json"


LIMIT = 12
HEAD = 8 * LIMIT

# White space of every kind, including what Python, Rust and BERT's cleaning disagree about; control characters that
# the cleaning deletes; several scripts; combining marks; special tokens; and words beyond any limit.
SPACES = " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
ODDITIES = (
    "\0\x01\x7f\u200b\u200d\u2060\ufeff\ufffd\u0301\u0308\u00a8\u0345Σς千里漢ا\u0650ل\u0915\u094dᄀ\u1161"
    "🙂👩\u200d👩ﬁßİéÅ"
)
PIECES = st.one_of(
    st.sampled_from(["one", "two", "un", "able", "word", "token", "sentence", ",", ".", "'", "-", "a", "zzzz"]),
    st.sampled_from(["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<mask>", "<s>", "</s>", "<pad>", " <mask> "]),
    st.sampled_from([*SPACES]),
    st.sampled_from([*ODDITIES]),
    st.builds(lambda word, times: word * times, st.sampled_from(["a", "é", "千", "zx", "#"]), st.integers(1, 250)),
    st.text(max_size=6),
)
LONG_TEXTS = st.builds(
    lambda pieces, joint, times: joint.join(pieces) * times,
    st.lists(PIECES, min_size=1, max_size=40),
    st.sampled_from(["", " ", "\n", "\t", "  ", "\r\n", "\xa0", "\u0301", " \u0301"]),
    st.integers(1, 12),
)


@pytest.fixture(scope="module")
def both(tokenizer_file: Path) -> tuple[TextTokenizer, Plain]:
    """Ours and the one by hand."""
    ours = TextTokenizer(tokenizer_file, max_seq_length=LIMIT, with_type_ids=True)
    return ours, plainly(tokenizer_file, LIMIT)


@settings(max_examples=200)
@given(texts=st.lists(LONG_TEXTS, min_size=1, max_size=4))
@example(texts=["word " * 100])
@example(texts=["a" * (HEAD - 1) + " " + "one two " * 60])
@example(texts=[" " * 400 + "one"])
@example(texts=["one" + " " * 400 + "two"])
@example(texts=["\u200b" * 400 + " one"])
@example(texts=["\0 " * 400 + "one two"])
@example(texts=["one \u0301" * 80])
# A part of such a word would have many tokens; the whole is beyond the length at which WordPiece gives up.
@example(texts=["a" * 60 + between + "a" * 200 for between in SPACES + ODDITIES])
def test_the_shortcut_for_long_texts_changes_nothing(both: tuple[TextTokenizer, Plain], texts: list[str]) -> None:
    ours, plain = both
    tokens = ours(texts)
    expected = [plain(text) for text in texts]
    assert rows_of(tokens) == [ids for ids, _ in expected]
    assert tokens.truncated == [i for i, (_, cut) in enumerate(expected) if cut]
    assert tokens.type_ids is not None
    assert tokens.type_ids.tolist() == [0] * len(tokens.ids)


def spy(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets every text that reaches the Rust tokenizer."""
    seen: list[str] = []
    encode = tokenizer._encode

    def note(texts: list[str]) -> list[Any]:
        seen.extend(texts)
        return encode(texts)

    monkeypatch.setattr(tokenizer, "_encode", note)
    return seen


def test_the_shortcut_is_taken(tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(tokenizer_file, max_seq_length=LIMIT, with_type_ids=False)
    seen = spy(tokenizer, monkeypatch)
    assert tokenizer(["one two " * 100_000]).truncated == [0]
    assert [len(text) <= HEAD for text in seen] == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "UnicodeScripts"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "one.*"}, "content": "three"}},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Lowercase"},
                    {"type": "Replace", "pattern": {"String": "one two " * 9}, "content": "x"},
                ],
            }
        },
        {"truncation": {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}},
    ],
    ids=["pre-tokenizer", "normalizer", "one of several normalizers", "truncation on the left"],
)
def test_the_shortcut_is_not_taken_where_a_token_may_depend_on_what_follows(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    definition = json.loads((tiny_bundle / "tokenizer.json").read_bytes())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**definition, **change}))
    tokenizer = TextTokenizer(path, max_seq_length=LIMIT, with_type_ids=False)
    seen = spy(tokenizer, monkeypatch)
    text = "one two " * 400
    tokenizer([text])
    assert seen == [text]


def test_the_shortcut_is_not_taken_with_an_added_token_that_has_a_space(tiny_bundle: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    tokenizer.add_tokens(["one two one"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    # As many tokens as fit; the head would end within the last of them, whose parts do not fit.
    texts = [" " * (HEAD - 18 - inside) + "a " * (LIMIT - 3) + "one two one" for inside in range(1, 11)]
    plain = plainly(path, LIMIT)
    tokens = TextTokenizer(path, max_seq_length=LIMIT, with_type_ids=False)(texts)
    assert rows_of(tokens) == [plain(text)[0] for text in texts]


@pytest.mark.parametrize("limit", [3, 8, 48])
def test_truncation_is_told_exactly(tokenizer_file: Path, limit: int) -> None:
    """Two of the tokens are the special ones."""
    tokenizer = TextTokenizer(tokenizer_file, max_seq_length=limit, with_type_ids=False)
    texts = [" ".join(["one"] * count) for count in (limit - 3, limit - 2, limit - 1)]
    tokens = tokenizer(texts)
    assert tokens.lengths.tolist() == [limit - 1, limit, limit]
    assert tokens.truncated == [2]
    assert tokens.type_ids is None


def test_an_id_beyond_every_table(tiny_bundle: Path, tmp_path: Path) -> None:
    definition = json.loads((tiny_bundle / "tokenizer.json").read_bytes())
    definition["model"]["vocab"]["one"] = 2**32 - 2
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    tokenizer = TextTokenizer(path, max_seq_length=8, with_type_ids=False)
    with pytest.raises(BundleError, match=f"got {2**32 - 2}; export the model again"):
        tokenizer(["two one"])


def test_token_types_that_are_not_all_0_are_read(tiny_bundle: Path, tmp_path: Path) -> None:
    definition = json.loads((tiny_bundle / "tokenizer.json").read_bytes())
    definition["post_processor"]["single"] = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 2}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    tokens = TextTokenizer(path, max_seq_length=8, with_type_ids=True)(["one two", ""])
    assert tokens.type_ids is not None
    assert tokens.type_ids.tolist() == [2, 0, 0, 1, 2, 1]


def test_a_limit_that_leaves_no_room_for_text_says_nothing_about_its_type(tiny_bundle: Path, tmp_path: Path) -> None:
    definition = json.loads((tiny_bundle / "tokenizer.json").read_bytes())
    definition["post_processor"]["single"][1]["Sequence"]["type_id"] = 1
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    for limit, types in ((2, [0, 0]), (3, [0, 1, 0])):
        tokens = TextTokenizer(path, max_seq_length=limit, with_type_ids=True)(["one two"])
        assert tokens.type_ids is not None
        assert tokens.type_ids.tolist() == types


@given(texts=st.lists(LONG_TEXTS, max_size=12), size=st.integers(1, 800), most=st.integers(1, 5))
def test_portions_change_nothing(both: tuple[TextTokenizer, Plain], texts: list[str], size: int, most: int) -> None:
    ours, plain = both
    portions = list(ours.portions(texts, "one ", size=size, most=most))
    parts = [ours.tokens(ours.encode(portion)) for portion in portions]
    expected = [plain("one " + text) for text in texts]
    assert [row for part in parts for row in rows_of(part)] == [ids for ids, _ in expected]
    ends = np.cumsum([0, *(len(portion.heads) for portion in portions)])
    truncated = [int(start) + i for start, part in zip(ends, parts, strict=False) for i in part.truncated]
    assert truncated == [i for i, (_, cut) in enumerate(expected) if cut]
    assert set(range(0, len(texts), most)) <= {int(end) for end in ends} | {0}
    for portion in portions:
        assert sum(len(head or "") for head in portion.heads) <= size or len(portion.heads) == 1


def test_portions_of_few_and_of_many_characters(tokenizer_file: Path) -> None:
    """Large portions have no more long texts than small ones, whose memory is what counts."""
    tokenizer = TextTokenizer(tokenizer_file, max_seq_length=None, with_type_ids=False)

    def rows(characters: int, size: int | None = None) -> list[int]:
        texts = ["a" * characters] * ((1 << 20) // characters)
        return [len(portion.heads) for portion in tokenizer.portions(texts, size=size)]

    assert rows(1 << 10) == [128] * 8
    assert rows(1 << 10, size=1 << 20) == [1024]
    assert rows(1 << 14) == rows(1 << 14, size=1 << 20) == [8] * 8


def test_nothing_to_tokenize(tokenizer_file: Path) -> None:
    tokens = TextTokenizer(tokenizer_file, max_seq_length=8, with_type_ids=True)([])
    assert tokens.type_ids is not None
    assert (len(tokens), len(tokens.ids), len(tokens.type_ids), tokens.truncated) == (0, 0, 0, [])
    assert (tokens.ids.dtype, tokens.offsets.tolist()) == (np.dtype(np.int32), [0])


def test_what_the_file_says_about_padding_and_truncation_is_ignored(tiny_bundle: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = TextTokenizer(tmp_path / "tokenizer.json", max_seq_length=8, with_type_ids=False)(["a", "a " * 20])
    assert tokens.lengths.tolist() == [3, 8]


def test_truncation_on_the_left_keeps_the_end(tiny_bundle: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    tokenizer.enable_truncation(4, direction="left")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = TextTokenizer(tmp_path / "tokenizer.json", max_seq_length=4, with_type_ids=False)(["one " * 300 + "two 3"])
    assert [tokenizer.id_to_token(i) for i in tokens.ids] == ["[CLS]", "two", "3", "[SEP]"]


def test_eight_threads_at_once_equal_one(tokenizer_file: Path) -> None:
    tokenizer = TextTokenizer(tokenizer_file, max_seq_length=LIMIT, with_type_ids=True)
    texts = [[f"{'one two ' * (i % 40)} {i} {j}" for j in range(30)] for i in range(64)]
    expected = [rows_of(tokenizer(some)) for some in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [rows_of(tokens) for tokens in pool.map(tokenizer, texts)] == expected


# As PyO3's: no subclass of Exception.
Panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


@pytest.fixture
def fail(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException, str], None]:
    """Tokenizes with a Rust side that raises the given exception in a function of the given module."""

    def run(error: BaseException, module: str) -> None:
        tokenizer = TextTokenizer(tiny_bundle / "tokenizer.json", max_seq_length=8, with_type_ids=False)
        failed = SimpleNamespace(encode_batch_fast=failing(error, module))
        monkeypatch.setattr(tokenizer, "_tokenizer", failed)
        tokenizer(["a"])

    return run


@pytest.mark.parametrize("error", [Panic("bad split"), ValueError("bad split"), Exception("bad split")])
def test_a_failure_in_rust_is_an_error_of_ours(
    fail: Callable[[BaseException, str], None], error: BaseException
) -> None:
    with pytest.raises(InferenceError, match=rf"^the tokenizer failed: {type(error).__name__}: bad split$") as caught:
        fail(error, "tokenizers")
    assert caught.value.__cause__ is error


class DeadlineError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (KeyboardInterrupt(), "tokenizers"),
        (KeyboardInterrupt("stop"), "tokenizers"),
        (SystemExit(3), "tokenizers"),
        (TimeoutError(), "tokenizers"),  # set by another thread, so it has no frame and no arguments
        (DeadlineError("3 s"), "tokenizers"),
        (RuntimeError("3 s"), "handlers"),
        (ValueError("3 s"), "handlers"),
        (Panic("3 s"), "handlers"),
    ],
    ids=repr,
)
def test_an_exception_of_the_caller_passes(
    fail: Callable[[BaseException, str], None], error: BaseException, module: str
) -> None:
    with pytest.raises(type(error)) as caught:
        fail(error, module)
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("content", ["", "{}", "[", '{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: tokenizers \S+ cannot read it: "):
        TextTokenizer(tmp_path / "tokenizer.json", max_seq_length=8, with_type_ids=False)

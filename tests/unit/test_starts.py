"""Starts of long texts: exactly the first tokens of the whole text, for tokenizers of every kind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import embedrt.inputs.starts as starts_module
import embedrt.inputs.text as text_module
from embedrt.inputs.text import TextTokenizer
from tests.kit.tokenizer_cases import plain, token

LIMIT = 12
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def _split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _sequence(kind: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(steps)}


def _replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"normalizer": {**BERT, "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"}}),
    "cased bert": (
        "bert",
        {"normalizer": {**BERT, "lowercase": False}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
    ),
    "whitespace": ("mpnet", {}),
    "punctuation": ("bert", {"pre_tokenizer": {"type": "Punctuation", "behavior": "Contiguous"}}),
    "bytes": ("bytes", {}),
    "gpt2": ("bytes", {"pre_tokenizer": GPT2}),
    "qwen": (
        "bytes",
        {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": _sequence("pretokenizers", _split(QWEN), {**GPT2, "use_regex": False}),
        },
    ),
    "gemma": (
        "bpe",
        {
            "normalizer": _replace("▁", String=" "),
            "pre_tokenizer": {**_split(" ", "MergedWithPrevious"), "pattern": {"String": " "}},
        },
    ),
    "llama": (
        "bpe",
        {
            "normalizer": _sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, _replace("▁", String=" ")),
            "pre_tokenizer": None,
        },
    ),
    "xlm-r": (
        "fairseq",
        {"pre_tokenizer": _sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE)},
    ),
    "xlm-r of today": (
        "fairseq",
        {
            "normalizer": _sequence("normalizers", {"type": "Nmt"}, {"type": "NFKC"}, _replace(" ", Regex=" {2,}")),
            "pre_tokenizer": METASPACE,
        },
    ),
    "t5": (
        "t5",
        {
            "normalizer": _sequence(
                "normalizers",
                {"type": "Strip", "strip_left": False, "strip_right": True},
                _replace("▁", Regex=" {2,}"),
            ),
            "pre_tokenizer": {**METASPACE, "prepend_scheme": "first"},
        },
    ),
    "albert": ("albert", {}),
    "unsplit": ("albert", {"pre_tokenizer": {**METASPACE, "split": False}}),
}
ADDED = [
    token("<new>", lstrip=True, rstrip=True),
    token("two words", normalized=True, special=False),
    token("<|long|of|many|parts|>"),
]


@pytest.fixture(scope="module", params=[*KINDS, *(f"{kind}, added tokens" for kind in KINDS)])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, _, added = request.param.partition(", ")
    source, changes = KINDS[kind]
    definition = {**plain(source), **changes}
    if added:
        definition["added_tokens"] = [
            *definition["added_tokens"],
            *({"id": 900_000 + i, **one} for i, one in enumerate(ADDED)),
        ]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reduced() -> Iterator[None]:
    """Short texts take the ways of long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_SHORT", 100)
        patch.setattr(text_module, "_PORTION", 400)
        patch.setattr(starts_module, "_PIECE", 24)
        yield


@pytest.fixture(scope="module")
def both(path: Path, reduced: None) -> tuple[TextTokenizer, Tokenizer]:
    """Ours, and one that reads every text whole."""
    del reduced
    whole = Tokenizer.from_file(str(path))
    whole.enable_truncation(LIMIT)
    return TextTokenizer(path, max_seq_length=LIMIT, with_type_ids=False), whole


ODDITIES = (
    "\0\x01\x7f\u200b\u200d\ufeff\ufffd\u0301\u0308\u0345Σς千里漢ا\u0650\u0915\u094dᄀ\u1161🙂👩ﬁßİéÅ\ue000≠\u0338\xa0\u3000"
    "\u2028"
)
PIECES = st.one_of(
    st.sampled_from(
        ["the", "quick", "un", "able", "don't", "'ll", "12,345", "x=1;", '{"a":', ",", ".", "''", "--", "a"]
    ),
    st.sampled_from(["[SEP]", "<s>", "</s>", "<pad>", " <mask> ", " <new> ", "two words", "<|long|of|many|parts|>"]),
    st.sampled_from([" ", "  ", "\t", "\n", "\r\n", *ODDITIES]),
    st.builds(
        lambda word, times: word * times,
        st.sampled_from(["a", ".", " ", "\n", "é", "千", "zx", "[SEP]", "\0", "\u0301", "\ue000", "e\u0301", "q"]),
        st.integers(1, 400),
    ),
    st.text(max_size=8),
)
TEXTS = st.builds(
    lambda pieces, joint, times: joint.join(pieces) * times,
    st.lists(PIECES, min_size=1, max_size=30),
    st.sampled_from(["", "", " ", "\n", "  ", ".", "\u0301"]),
    st.integers(1, 30),
)


@settings(max_examples=40)
@given(prompt=st.sampled_from(["", "", "query: ", "x" * 300, "two wor"]), texts=st.lists(TEXTS, min_size=1, max_size=3))
@example(prompt="", texts=["." * 3000, "a" * 3000, " " * 3000, "\0" * 3000, "\u0301" * 3000, "\ue000" * 3000])
@example(prompt="", texts=['{"a":1,"b":[2,3]},' * 200, "aGVsbG8gd29ybGQK" * 200, "千里之行" * 400, "[SEP]" * 900])
@example(prompt="", texts=[" " * 2000 + "the quick", "a" * 2000 + " the quick", "\0" * 2000 + "the\0 quick"])
@example(prompt="", texts=["the" + " " * 900 + "<new>" + " the" * 50, " " * 90 + "\x1c" * 99 + "<new> " * 30])
@example(prompt="", texts=["the " + " " * 97 + "quick" * 90, "the\u0301" * 500, "≠=\u0338" * 200, "12345" * 300])
def test_ids_and_truncation_are_those_of_the_whole_text(
    both: tuple[TextTokenizer, Tokenizer], prompt: str, texts: list[str]
) -> None:
    ours, whole = both
    tokens = ours(texts, prompt)
    expected = whole.encode_batch([prompt + text for text in texts])
    rows = np.split(tokens.ids, tokens.offsets[1:-1])
    assert [row.tolist() for row in rows] == [encoding.ids for encoding in expected]
    assert tokens.truncated == [i for i, encoding in enumerate(expected) if encoding.overflowing]


TEN_MEGABYTES = r"""
import base64, random, re, sys
from pathlib import Path
from embedrt.inputs.text import TextTokenizer
size = 10_000_000
def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024
tokenize = TextTokenizer(Path(sys.argv[1]), max_seq_length=512, with_type_ids=False)
tokenize(["a"])
texts = [
    "the quick brown fox " * (size // 20),
    '{"a":1,"b":[2,3]},' * (size // 18),
    base64.b64encode(random.Random(0).randbytes(size * 3 // 4)).decode(),
    "\u5343\u91cc\u4e4b\u884c" * (size // 12),
    *(character * (size // len(character.encode())) for character in (".", " ", "a", "\0", "\ue000", "e\u0301")),
]
before = peak()
for text in texts:
    tokenize([text])
print(peak() - before)
"""


@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_megabytes_without_a_space_take_little_memory(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TEN_MEGABYTES, str(path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 120

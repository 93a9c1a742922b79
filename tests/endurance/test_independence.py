"""`encode` of any list of texts equals each text alone. `--cases` sets the number of lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrt import Embedder
from tests.endurance.threads import BOUND

# One alphabet each: Latin with marks, Greek and Cyrillic, right to left, Indic and Thai, East Asian, emoji with joiners
# and modifiers, controls and formats, blanks of all kinds, punctuation, digits.
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzàéîõüßñçøåł\u0301\u0308",
    "αβγδεζηθλπσςωабвгджзиклмнопрстуфхцчшщъыьэюя",
    "אבגדהוזחטابتثجحخدذرزسش\u064b\u0651",
    "कखगघङचजअआइ्ािกขคงจฉชซญ่้",
    "千里之行始于足下あいうえおアイウエオ가나다라마한국어",
    "🙂👍🏽👩\u200d💻🇩🇪❤\ufe0f🧑\u200d🤝\u200d🧑",
    "\0\x01\x1b\x7f\u200b\u200e\u202e\ufeff\ufffd\uffff\U000e0001\U0010ffff",
    " \t\n\r\v\f\x85\xa0\u2003\u2028\u3000",
    ".,:;!?'\"()[]{}<>/\\|@#$%^&*_-+=~`§«»",
    "0123456789٠١٢٣४५六七",
)
WORDS = ("the", "cat", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "##ing", "</s>", "<s>", "river", "bank", "unbelievable")
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    *(st.text(alphabet, max_size=30) for alphabet in ALPHABETS),
    st.lists(st.sampled_from(WORDS), max_size=80).map(" ".join),
    st.tuples(st.sampled_from(["a", "漢", "🙂", '{"a":1},', ".", "x" * 99, "[SEP]"]), st.integers(0, 600)).map(
        lambda drawn: drawn[0] * drawn[1]
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "few"), [("tiny", 50), ("minilm", 10)])
def test_every_text_has_the_vector_that_it_has_alone(model: str, few: int, request: pytest.FixtureRequest) -> None:
    embedder: Embedder = request.getfixturevalue(model)

    def check(items: list[str]) -> None:
        vectors = embedder.encode(items)
        assert vectors.shape == (len(items), embedder.get_embedding_dimension())
        for text, vector in zip(items, vectors, strict=True):
            assert np.abs(vector - embedder.encode(text)).max() <= BOUND, text

    cases = request.config.getoption("--cases") * few // 50  # the real model takes most of the time
    settings(max_examples=cases)(given(st.lists(texts, max_size=8))(check))()

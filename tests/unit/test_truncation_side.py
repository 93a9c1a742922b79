"""Truncation on the side that a request names, compared with the tokenizer itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedrt import CrossEncoder, Embedder
from embedrt.inputs.pairs import PairReading
from embedrt.inputs.text import Side, TextTokenizer
from embedrt.run.request import Request
from embedrt.tasks.embed import SentenceVectors
from embedrt_export import export
from tests.kit.score_models import MODELS as RERANKERS

SIDES: tuple[Side, ...] = ("left", "right")
LIMIT = 12
_WORDS = ("one", "two", "three", "cat", "dogs,", "läuft", "猫", "!", "unheard-of")
WORDS = st.lists(st.sampled_from(_WORDS), max_size=60).map(" ".join)


def reference(bundle: Path, limit: int, side: Side) -> Any:
    """The Rust tokenizer, configured by hand."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit, direction=side)
    return tokenizer


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that scores pairs."""
    folder = tmp_path_factory.mktemp("reranker")
    return export(RERANKERS["prompts"](folder / "model"), folder / "bundle", reference="onnx")


@pytest.mark.parametrize("side", SIDES)
@given(texts=st.lists(WORDS, min_size=1, max_size=5), prompt=st.sampled_from(["", "query: "]))
def test_tokens_are_those_of_the_tokenizer(tiny_bundle: Path, side: Side, texts: list[str], prompt: str) -> None:
    rust = reference(tiny_bundle, LIMIT, side)
    found = TextTokenizer(tiny_bundle / "tokenizer.json", max_seq_length=LIMIT, with_type_ids=False, direction=side)(
        texts, prompt
    )
    encodings = [rust.encode(prompt + text) for text in texts]
    assert found.ids.tolist() == [number for encoding in encodings for number in encoding.ids]
    assert found.truncated == [i for i, encoding in enumerate(encodings) if encoding.overflowing]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("words", [1000, 100_000])
def test_long_texts(tiny_bundle: Path, side: Side, words: int) -> None:
    """A long text is tokenized in parts from the right only."""
    text = " ".join(f"cat {i}" for i in range(words))
    found = TextTokenizer(tiny_bundle / "tokenizer.json", max_seq_length=LIMIT, with_type_ids=False, direction=side)(
        [text]
    )
    assert found.ids.tolist() == reference(tiny_bundle, LIMIT, side).encode(text).ids
    assert found.truncated == [0]


@pytest.mark.parametrize("side", SIDES)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_tokens_of_pairs_are_those_of_the_tokenizer(reranker: Path, side: Side, pairs: list[tuple[str, str]]) -> None:
    rust = reference(reranker, LIMIT, side)
    texts = TextTokenizer(reranker / "tokenizer.json", max_seq_length=LIMIT, with_type_ids=True, direction=side)
    found = PairReading().of(texts)(pairs)
    encodings = [rust.encode(*pair) for pair in pairs]
    assert found.ids.tolist() == [number for encoding in encodings for number in encoding.ids]
    assert found.type_ids is not None
    assert found.type_ids.tolist() == [number for encoding in encodings for number in encoding.type_ids]
    assert found.truncated == [i for i, encoding in enumerate(encodings) if encoding.overflowing]


def test_vectors_of_a_request(tiny: Embedder, tiny_bundle: Path) -> None:
    """A text that is truncated from the left has the vector of its end."""
    runner = tiny.runners["default"]
    limit = tiny.max_seq_length
    assert limit is not None
    words = [f"{word} cat" for word in ["one", "two", "three", "four", "five", "six", "seven"]] * 20
    whole = " ".join(words)
    ends = {side: reference(tiny_bundle, limit, side).encode(whole) for side in SIDES}
    assert ends["left"].ids != ends["right"].ids
    for side in SIDES:
        kept = whole[ends[side].offsets[1][0] : ends[side].offsets[-2][1]]
        found = runner.run([whole], Request(SentenceVectors(32), limit, truncation_side=side))
        assert found.truncated == [0]
        np.testing.assert_allclose(found.values[0], tiny.encode(kept), atol=1e-6)
    unnamed = runner.run([whole], Request(SentenceVectors(32), limit))
    np.testing.assert_array_equal(unnamed.values[0], tiny.encode(whole))


def test_scores_of_a_request(reranker: Path) -> None:
    with CrossEncoder(reranker) as model:
        runner = model.runners["default"]
        pair = ("one cat", "two dogs " * 100 + "three cats")
        tokens = {
            side: runner.tokens(
                [pair], Request(SentenceVectors(1), 16, reading=PairReading(), truncation_side=side)
            ).ids.tolist()
            for side in (*SIDES, None)
        }
    assert tokens["left"] == reference(reranker, 16, "left").encode(*pair).ids
    assert tokens["right"] == reference(reranker, 16, "right").encode(*pair).ids == tokens[None]


def test_tokenizers_are_kept_for_a_few_lengths_and_sides(tiny: Embedder) -> None:
    runner = tiny.runners["default"]
    limit = runner.route.max_seq_length
    assert runner.tokenizer(limit, "right") is runner.tokenizer(limit) is runner.tokenize
    assert runner.tokenizer(limit, "left") is runner.tokenizer(limit, "left")
    assert runner.tokenizer(limit, "left").direction == "left"

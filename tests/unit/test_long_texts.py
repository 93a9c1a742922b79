"""Texts that are longer than the model reads: nothing is lost, and what fits stays as it is."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedrt import Embedder, NonFiniteError, TruncationError
from embedrt.types import Vectors
from embedrt_export import export
from tests.kit.bundles import copy_bundle, poison
from tests.kit.chains import Entry, draw, pooling, write_chain
from tests.kit.models import make_model

WORDS = ("river", "bank", "vector", "the", "cat", "one", "two", "unseenword")
DENSE = ("Dense", {"in_features": 32, "out_features": 8, "bias": False}, {"linear.weight": draw(8, 32)})
LONG = " ".join(WORDS[i % 7] for i in range(150))


def ids_of(bundle: Path, text: str) -> list[int]:
    """The token ids of the text alone, without special tokens and without an end."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_truncation()
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def run(bundle: Path, text_ids: list[int], output: str = "sentence_embedding") -> Vectors:
    """What the graph alone makes of token ids between the special tokens of an empty text."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    start, end = tokenizer.encode("").ids
    ids = np.array([[start, *text_ids, end]], np.int64)
    session = ort.InferenceSession(bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run([output], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    vectors: Vectors = result[0]
    return vectors


class TestWindows:
    def test_a_text_that_fits_has_its_own_vector(self, tiny: Embedder) -> None:
        texts = ["", "one", "one two " * 10]
        np.testing.assert_array_equal(tiny.encode_long(texts), tiny.encode(texts))
        np.testing.assert_array_equal(tiny.encode_long("one", combine="max"), tiny.encode("one"))

    def test_every_window_is_what_the_graph_makes_of_its_tokens(self, tiny: Embedder, tiny_bundle: Path) -> None:
        ids = ids_of(tiny_bundle, LONG)
        expected = [run(tiny_bundle, ids[start : start + 18]) for start in range(0, len(ids) - 6, 12)]
        found = tiny.encode_long(LONG, max_tokens=20, overlap=6, combine="none")
        assert found.shape == (len(expected), 32)
        assert np.abs(found - np.stack(expected)).max() <= 2e-6

    def test_the_mean_counts_tokens(self, tiny: Embedder, tiny_bundle: Path) -> None:
        ids = ids_of(tiny_bundle, LONG)
        parts = [ids[start : start + 46] for start in range(0, len(ids), 46)]
        assert len(parts[-1]) < 46
        mean = np.average([run(tiny_bundle, part) for part in parts], axis=0, weights=[len(part) for part in parts])
        mean /= np.linalg.norm(mean)
        assert np.abs(tiny.encode_long(LONG) - mean).max() <= 2e-6
        assert np.abs(tiny.encode_long([LONG, "one"])[0] - mean).max() <= 2e-6

    def test_the_maximum(self, tiny: Embedder) -> None:
        highest = tiny.encode_long(LONG, combine="none").max(axis=0)
        highest /= np.linalg.norm(highest)
        assert np.abs(tiny.encode_long(LONG, combine="max") - highest).max() <= 2e-6

    def test_every_window_has_the_prompt(self, tiny: Embedder, tiny_bundle: Path) -> None:
        head, ids = ids_of(tiny_bundle, "the cat "), ids_of(tiny_bundle, LONG)
        expected = [run(tiny_bundle, head + ids[start : start + 44]) for start in range(0, len(ids), 44)]
        found = tiny.encode_long(LONG, prompt="the cat ", combine="none")
        assert np.abs(found - np.stack(expected)).max() <= 2e-6

    def test_truncated_and_normalized_vectors(self, tiny: Embedder) -> None:
        short = tiny.encode_long([LONG, "one"], truncate_dim=8)
        assert short.shape == (2, 8)
        np.testing.assert_array_equal(short, tiny.encode_long([LONG, "one"])[:, :8])
        unit = tiny.encode_long([LONG, "one"], truncate_dim=8, normalize_embeddings=True)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)

    def test_many_texts_come_in_order(self, tiny: Embedder) -> None:
        texts = [" ".join([word] * count) for word in WORDS[:6] for count in (1, 40, 300)] * 70
        assert len(texts) > 1024
        once = tiny.encode_long(texts[:18])
        assert np.abs(tiny.encode_long(texts) - np.tile(once, (70, 1))).max() <= 2e-6

    @given(
        words=st.lists(st.sampled_from([*WORDS, "a.b", "x-y", "é", "你好"]), min_size=1, max_size=120),
        length=st.integers(3, 48),
        overlap=st.integers(0, 40),
        prompt=st.sampled_from(["", "the cat ", "q:"]),
    )
    def test_windows_cover_the_text(
        self, tiny: Embedder, words: list[str], length: int, overlap: int, prompt: str
    ) -> None:
        text = " ".join(words)
        room = length - tiny.token_count(prompt)
        if not overlap < room:
            with pytest.raises(ValueError, match="max_tokens: " if room < 1 else "overlap: "):
                tiny.windows(text, length, overlap, prompt=prompt)
            return
        spans = tiny.windows(text, length, overlap, prompt=prompt)
        seen = [False] * len(text)
        for start, end in spans:
            assert 0 <= start <= end <= len(text)
            seen[start:end] = [True] * (end - start)
        assert all(covered or character == " " for covered, character in zip(seen, text, strict=True))
        assert [start for start, _ in spans] == sorted(start for start, _ in spans)
        assert len(tiny.encode_long(text, length, overlap, combine="none", prompt=prompt)) == len(spans)

    def test_empty(self, tiny: Embedder) -> None:
        assert tiny.encode_long([]).shape == (0, 32)
        assert tiny.encode_long([], combine="none") == []
        assert tiny.windows([]) == []
        assert tiny.windows("") == [(0, 0)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_tokens": 2}, "max_tokens: expected 3 to 64, the number of positions, got 2"),
            ({"max_tokens": 65}, "max_tokens: expected 3 to 64, the number of positions, got 65"),
            (
                {"max_tokens": 4, "prompt": "one two "},
                "max_tokens: expected more than 4, the prompt",
            ),
            ({"overlap": -1}, "overlap: expected 0 or more, got -1"),
            ({"overlap": 46}, "overlap: expected 0 to 45, as a window has 46 text tokens, got 46"),
            ({"combine": "sum"}, "combine: expected one of 'mean', 'max', 'none', got 'sum'"),
        ],
    )
    def test_wrong_arguments(self, tiny: Embedder, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny.encode_long("one", **options)  # type: ignore[call-overload]

    def test_an_error_names_the_text_and_not_the_window(self, tiny_bundle: Path, tmp_path: Path) -> None:
        poison(copy_bundle(tiny_bundle, tmp_path / "b"), "river", np.nan)
        with pytest.raises(NonFiniteError, match=r"^texts\[2\]: "):
            Embedder(tmp_path / "b").encode_long(["cat " * 200, "one", "cat " * 100 + "river"])


class TestChunks:
    TEXT = "the cat sat. one river, two banks! vector"

    def test_a_passage_is_the_mean_of_its_tokens(self, tiny: Embedder, tiny_bundle: Path) -> None:
        tokens = run(tiny_bundle, ids_of(tiny_bundle, self.TEXT), "token_embeddings")
        head = len(ids_of(tiny_bundle, self.TEXT[:12]))
        both = np.stack([tokens[1 : 1 + head].mean(axis=0), tokens[1 + head : -1].mean(axis=0)])
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        found = tiny.encode_chunks(self.TEXT, [(0, 12), (12, len(self.TEXT))])
        assert found.dtype == np.float32
        assert np.abs(found - both).max() <= 2e-6
        cut = tiny.encode_chunks(self.TEXT, [(0, 12)], truncate_dim=8, normalize_embeddings=True)
        assert np.abs(cut - both[:1, :8] / np.linalg.norm(both[0, :8])).max() <= 2e-6

    def test_the_prompt_is_context_and_no_part(self, tiny: Embedder, tiny_bundle: Path) -> None:
        tokens = run(tiny_bundle, ids_of(tiny_bundle, "river bank " + self.TEXT), "token_embeddings")
        head = len(ids_of(tiny_bundle, "river bank "))
        mean = tokens[1 + head :][: len(ids_of(tiny_bundle, self.TEXT[:11]))].mean(axis=0)
        found = tiny.encode_chunks(self.TEXT, [(0, 11)], prompt="river bank ")
        assert np.abs(found[0] - mean / np.linalg.norm(mean)).max() <= 2e-6

    @pytest.mark.parametrize("span", [(0, 0), (3, 2), (-1, 2), (0, 42), (0, 1.0), (0,), "ab", None, (0, 1, 2)])
    def test_spans_outside(self, tiny: Embedder, span: object) -> None:
        with pytest.raises(ValueError, match=r"^spans\[1\]: expected \(start, end\) with 0 <= start < end <= 41, got "):
            tiny.encode_chunks(self.TEXT, [(0, 3), span])  # type: ignore[list-item]

    def test_a_passage_without_token(self, tiny: Embedder) -> None:
        with pytest.raises(ValueError, match=r"^spans\[0\]: no token begins in characters 3 to 4: ' '$"):
            tiny.encode_chunks(self.TEXT, [(3, 4)])

    def test_a_text_that_does_not_fit(self, tiny: Embedder) -> None:
        with pytest.raises(TruncationError, match="longer than the 48 tokens"):
            tiny.encode_chunks(LONG, [(0, 3)])

    @pytest.mark.parametrize("chain", [(pooling("cls"),), (pooling(["mean", "max"]),), (pooling(), DENSE)])
    def test_models_whose_vector_is_no_mean(self, tmp_path: Path, chain: tuple[Entry, ...]) -> None:
        model = Embedder(export(write_chain(make_model(tmp_path / "model"), *chain), tmp_path / "b"))
        with pytest.raises(
            ValueError, match=r"^encode_chunks needs a model whose vector is the mean of its token embed"
        ):
            model.encode_chunks("one two", [(0, 3)])

    def test_without_normalization(self, tmp_path: Path) -> None:
        model = Embedder(export(write_chain(make_model(tmp_path / "model"), pooling()), tmp_path / "b"))
        plain = model.encode_chunks("one two", [(0, 3)])
        unit = model.encode_chunks("one two", [(0, 3)], normalize_embeddings=True)
        assert abs(np.linalg.norm(plain) - 1) > 1e-3
        assert np.abs(unit - plain / np.linalg.norm(plain)).max() <= 1e-6

"""`Embedder.encode`: shapes, order, prompts, truncation, devices, threads and forks, with the real engine."""

import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import embedrt
from embedrt import (
    BundleError,
    DeviceError,
    Embedder,
    InferenceError,
    NonFiniteError,
    TruncationError,
    TruncationWarning,
)
from embedrt.engine import Batch, cuda_setup
from embedrt.engine.devices import find_device
from embedrt.errors import EngineError, OutOfMemory
from embedrt.run import runner as runner_module
from embedrt.tasks.graph_values import graph_values_in_one_batch
from embedrt.types import DTYPES, Vectors
from embedrt_export import export
from embedrt_export.dtypes import WRITERS
from tests.kit.bundles import change, copy_bundle, edit_graph, poison, replace_output
from tests.kit.library_failures import failing
from tests.kit.models import make_model
from tests.kit.sessions import count_sessions

# What a vector of length 1 may differ by when it is computed in another batch.
CLOSE = 2e-6
TEXTS = ["one cat", "two dogs by the river", "", "money in the bank . " * 9, "one cat", "é 千里 🙂", " ", "a\0b"]
PROMPTS = {"query": "two words : ", "passage": "", "default": "that is "}


@pytest.fixture(params=["tiny", "minilm"])
def model(request: pytest.FixtureRequest) -> Embedder:
    """The random model and the real one."""
    loaded: Embedder = request.getfixturevalue(request.param)
    return loaded


@pytest.fixture(scope="session")
def prompted_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with prompts, whose vectors are not normalized."""
    folder = tmp_path_factory.mktemp("prompted")
    return export(make_model(folder / "model", prompts=PROMPTS, normalize=False), folder / "bundle")


@pytest.fixture(scope="session")
def prompted(prompted_bundle: Path) -> Embedder:
    return Embedder(prompted_bundle)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


def assert_close(actual: Vectors, expected: Vectors) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=CLOSE)


def one_by_one(embedder: Embedder, texts: list[str]) -> Vectors:
    return np.stack([embedder.encode(text) for text in texts])


@pytest.fixture
def batches(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the batches that reach the engine of `tiny`."""
    shapes: list[tuple[int, ...]] = []
    run = tiny.runners["default"].engine.run

    def note(batch: Batch, outputs: Sequence[str]) -> Any:
        shapes.append(batch.shape)
        return run(batch, outputs)

    monkeypatch.setattr(tiny.runners["default"].engine, "run", note)
    return shapes


class TestTexts:
    def test_one_text_gives_one_vector(self, model: Embedder) -> None:
        vector = model.encode("one cat")
        assert vector.shape == (model.manifest.dim,)
        assert vector.dtype == np.float32
        assert_close(vector, model.encode(["one cat"])[0])
        assert_close(model.encode(np.str_("one cat")), vector)

    def test_every_collection_gives_the_same_vectors_in_order(self, model: Embedder) -> None:
        texts = [text for text in TEXTS if "\0" not in text]  # numpy cannot hold it at the end of a string
        expected = one_by_one(model, texts)
        for collection in (
            texts,
            tuple(texts),
            (text for text in texts),
            np.array(texts),
            np.array(texts, dtype=object),
            pd.Series(texts, index=range(7, 0, -1)),
        ):
            vectors = model.encode(collection)
            assert vectors.dtype == np.float32
            assert_close(vectors, expected)

    @pytest.mark.parametrize("nothing", [[], (), iter(()), np.array([], dtype=str), pd.Series([], dtype=str)])
    def test_no_texts_give_no_vectors(self, tiny: Embedder, nothing: Any) -> None:
        vectors = tiny.encode(nothing)
        assert vectors.shape == (0, 32)
        assert vectors.dtype == np.float32
        assert tiny.encode([], truncate_dim=5, normalize_embeddings=True).shape == (0, 5)

    def test_duplicates_get_the_same_vector(self, model: Embedder) -> None:
        vectors = model.encode(["one cat", "a much longer text " * 8, "one cat"] * 30)
        assert vectors.shape == (90, model.manifest.dim)
        assert_close(vectors, np.tile(vectors[:3], (30, 1)))
        assert_close(vectors[0], vectors[2])
        assert np.abs(vectors[0] - vectors[1]).max() > 0.01

    def test_special_texts_are_read_and_not_stripped(self, model: Embedder) -> None:
        different = ["", "a", "ab", "[MASK]", "[SEP]", "a a", "🙂"]
        assert len(np.unique(model.encode(different), axis=0)) == len(different)
        assert np.isfinite(model.encode(["", " ", "\n", "\ufeff", "\u200b", "\0"])).all()

    def test_an_item_that_is_no_str_stops_before_any_work(
        self, tiny: Embedder, batches: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner_module, "_SLICE", 2)
        with pytest.raises(TypeError, match=r"^texts\[17\]: expected str, got NoneType$"):
            tiny.encode([*["a"] * 17, None])  # type: ignore[list-item]
        assert batches == []

    def test_the_error_of_a_generator_comes_through(self, tiny: Embedder) -> None:
        def failing() -> Iterator[str]:
            yield from ["a"] * 10
            raise LookupError("mine")

        with pytest.raises(LookupError, match=r"^mine$"):
            tiny.encode(failing())
        assert tiny.encode("a").shape == (32,)

    def test_similar_texts_are_near_each_other(self, minilm: Embedder) -> None:
        cat, kitten, invoice = minilm.encode(["A cat sleeps.", "A kitten is napping.", "Invoices are due in March."])
        assert cat @ kitten > 0.5
        assert cat @ invoice < 0.2


WORDS = st.sampled_from(
    ["one", "cat", "river", "unable", "sentences", "##s", "é", "千", "🙂", "[MASK]", ",", "zq" * 60]
)
PHRASES = st.lists(WORDS, max_size=60).map(" ".join)


class TestBatches:
    @settings(max_examples=60)
    @given(texts=st.lists(PHRASES | st.text(max_size=30), max_size=24), batch_size=st.integers(1, 40))
    def test_a_vector_does_not_depend_on_the_texts_around_it(
        self, tiny: Embedder, texts: list[str], batch_size: int
    ) -> None:
        vectors = tiny.encode(texts, batch_size=batch_size)
        assert vectors.shape == (len(texts), 32)
        for text, vector in zip(texts, vectors, strict=True):
            assert_close(vector, tiny.encode(text))

    @settings(max_examples=15)
    @given(texts=st.lists(PHRASES | st.text(max_size=30), min_size=2, max_size=8))
    def test_the_same_holds_for_the_real_model(self, minilm: Embedder, texts: list[str]) -> None:
        assert_close(minilm.encode(texts), one_by_one(minilm, texts))

    @pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
    def test_batch_size_is_an_upper_bound(
        self, tiny: Embedder, batches: list[tuple[int, ...]], batch_size: int
    ) -> None:
        texts = [*TEXTS, *["one two"] * 20]
        expected = tiny.encode(texts)
        batches.clear()
        assert_close(tiny.encode(texts, batch_size=batch_size), expected)
        assert sum(rows for rows, _ in batches) == len(texts)
        assert max(rows for rows, _ in batches) <= batch_size

    @pytest.mark.parametrize("options", [{}, {"batch_size": None}])
    @pytest.mark.parametrize(
        ("threads", "expected"), [(1, [60, 170, 170]), (4, [3, 42, 42, 42, 42, 56, 74, 99])], ids=["alone", "shared"]
    )
    def test_without_one_the_token_budget_decides(
        self,
        tiny: Embedder,
        batches: list[tuple[int, ...]],
        monkeypatch: pytest.MonkeyPatch,
        options: dict[str, Any],
        threads: int,
        expected: list[int],
    ) -> None:
        """512 // 3 texts at most, and no more than the share of a thread, but for small batches."""
        monkeypatch.setattr(tiny.runners["default"].engine, "threads", threads)
        tiny.encode(["one"] * 400, **options)
        assert sorted(rows for rows, _ in batches) == expected

    def test_batches_keep_the_token_budget(self, tiny: Embedder, batches: list[tuple[int, ...]]) -> None:
        tiny.encode(["one " * (i % 60) for i in range(300)], batch_size=300)
        assert max(rows * length for rows, length in batches) <= 512
        assert len(batches) > 10

    @pytest.mark.parametrize("batch_size", [0, -1, 1.0, "8", True, np.int64(0), np.float64(8), np.bool_(True)])
    def test_a_wrong_batch_size(self, tiny: Embedder, batch_size: Any) -> None:
        with pytest.raises(ValueError, match="batch_size: expected a positive integer, got ") as caught:
            tiny.encode(["a"], batch_size=batch_size)
        assert repr(batch_size) in str(caught.value)

    def test_integers_of_numpy_are_integers(self, tiny: Embedder, batches: list[tuple[int, ...]]) -> None:
        options: dict[str, Any] = {"batch_size": np.int64(2), "truncate_dim": np.uint8(5)}
        expected = tiny.encode(TEXTS, batch_size=2, truncate_dim=5)
        batches.clear()
        np.testing.assert_array_equal(tiny.encode(TEXTS, **options), expected)
        assert max(rows for rows, _ in batches) == 2

    @pytest.mark.parametrize("size", [1, 3, 8, 9])
    def test_slices_change_nothing(self, model: Embedder, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        texts = [*TEXTS, "last"]
        expected = model.encode(texts)
        monkeypatch.setattr(runner_module, "_SLICE", size)
        assert_close(model.encode(texts), expected)

    def test_together_and_alone(self, tiny: Embedder) -> None:
        assert_close(graph_values_in_one_batch(tiny.runners["default"], TEXTS), one_by_one(tiny, TEXTS))

    def test_counted_tokens_are_those_that_the_model_gets(self, tiny: Embedder) -> None:
        texts = ["", "one", "one two", "one " * 46, "one " * 47, "one " * 5000]
        assert tiny.token_count(texts) == [2, 3, 4, 48, 48, 48]
        feeds = tiny.tokenize("one two")
        assert {name: array.shape for name, array in feeds.items()} == {"input_ids": (1, 4), "attention_mask": (1, 4)}
        assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}


class TestPrompts:
    def test_a_named_prompt_goes_before_every_text(self, prompted: Embedder) -> None:
        expected = prompted.encode([PROMPTS["query"] + text for text in TEXTS])
        assert_close(prompted.encode(TEXTS, prompt_name="query"), expected)
        assert_close(prompted.encode(TEXTS, "query"), expected)
        assert_close(prompted.encode(TEXTS[0], "query"), expected[0])

    def test_an_empty_prompt_is_one(self, prompted: Embedder) -> None:
        assert_close(prompted.encode(TEXTS, prompt_name="passage"), prompted.encode(TEXTS))

    def test_a_prompt_of_ones_own(self, prompted: Embedder) -> None:
        assert_close(prompted.encode("cat", prompt="one "), prompted.encode("one cat"))
        assert_close(prompted.encode("cat", prompt=""), prompted.encode("cat"))

    def test_the_text_wins_over_the_name_with_a_warning_in_the_log(
        self, prompted: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        vector = prompted.encode("cat", prompt_name="query", prompt="one ")
        assert_close(vector, prompted.encode("one cat"))
        assert [record.getMessage() for record in caplog.records] == [
            "both prompt and prompt_name are given; prompt_name is ignored"
        ]

    def test_an_unknown_name_lists_the_known_ones(self, prompted: Embedder, tiny: Embedder) -> None:
        with pytest.raises(ValueError, match=r"^prompt_name: expected one of 'query', 'document', 'pas"):
            prompted.encode("a", prompt_name="x")
        with pytest.raises(ValueError, match=r"^prompt_name: expected one of 'query', 'document', got 'x'$"):
            tiny.encode("a", prompt_name="x")

    @pytest.mark.parametrize("prompt", [3, b"a", ["a"]])
    def test_a_prompt_that_is_no_str(self, tiny: Embedder, prompt: Any) -> None:
        with pytest.raises(TypeError, match=rf"^prompt: expected str or None, got {type(prompt).__name__}$"):
            tiny.encode("a", prompt=prompt)

    def test_a_prompt_with_a_lone_surrogate(self, tiny: Embedder) -> None:
        with pytest.raises(ValueError, match=r"^prompt: lone surrogate '\\ud800' at character 1; "):
            tiny.encode("a", prompt="a\ud800")

    def test_the_default_prompt(self, prompted_bundle: Path, tmp_path: Path, prompted: Embedder) -> None:
        folder = copy_bundle(prompted_bundle, tmp_path / "bundle")
        change(folder, lambda raw: raw.update(default_prompt_name="default"))
        embedder = Embedder(folder)
        assert_close(embedder.encode("cat"), prompted.encode("that is cat"))
        assert_close(embedder.encode("cat", prompt=""), prompted.encode("cat"))
        assert_close(embedder.encode("cat", "query"), prompted.encode("cat", "query"))


class TestVectors:
    def test_truncation_keeps_the_first_coordinates(self, prompted: Embedder) -> None:
        whole = prompted.encode(TEXTS)
        for dim in (1, 7, 32):
            assert_close(prompted.encode(TEXTS, truncate_dim=dim), whole[:, :dim])
        assert_close(prompted.encode("one cat", truncate_dim=7), whole[0, :7])

    @pytest.mark.parametrize("dim", [0, -1, 33, True, 16.0, "16"])
    def test_a_wrong_dimension(self, tiny: Embedder, dim: Any) -> None:
        with pytest.raises(ValueError, match="truncate_dim: expected 1 to 32 or None, got ") as caught:
            tiny.encode("a", truncate_dim=dim)
        assert repr(dim) in str(caught.value)

    def test_the_models_own_truncation(self, bundle: Path, tiny: Embedder) -> None:
        change(bundle, lambda raw: raw.update(truncate_dim=8))
        embedder = Embedder(bundle)
        whole = tiny.encode(TEXTS)
        assert_close(embedder.encode(TEXTS), whole[:, :8])
        assert_close(embedder.encode(TEXTS, truncate_dim=32), whole)

    def test_normalization_comes_after_truncation(self, prompted: Embedder) -> None:
        whole = prompted.encode(TEXTS)
        assert np.abs(np.linalg.norm(whole, axis=1) - 1).min() > 0.1
        for dim in (None, 5):
            kept = whole[:, :dim]
            vectors = prompted.encode(TEXTS, normalize_embeddings=True, truncate_dim=dim)
            assert_close(vectors, kept / np.linalg.norm(kept, axis=1, keepdims=True))
            assert vectors.dtype == np.float32
        assert abs(np.linalg.norm(prompted.encode("a", normalize_embeddings=True, truncate_dim=3)) - 1) < CLOSE

    def test_a_zero_vector_stays_zero(self, bundle: Path) -> None:
        zero = onnx.helper.make_node("Sub", ["plain", "plain"], ["sentence_embedding"])
        edit_graph(bundle, lambda graph: replace_output(graph, zero))
        np.testing.assert_array_equal(Embedder(bundle).encode("a", normalize_embeddings=True), np.zeros(32))

    def test_normalized_models_have_vectors_of_length_1(self, model: Embedder) -> None:
        assert np.abs(np.linalg.norm(model.encode(TEXTS), axis=1) - 1).max() < CLOSE


LONG = "one two " * 24  # 48 tokens and the two special ones; the tiny model reads 48 in all
FITS = "one two " * 23


class TestTruncatedTexts:
    def test_are_cut_off_without_a_word(self, tiny: Embedder) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            vectors = tiny.encode([LONG, FITS])
        assert_close(vectors[0], tiny.encode(FITS))

    def test_are_named_by_a_warning_at_the_callers_line(self, tiny: Embedder) -> None:
        with pytest.warns(TruncationWarning) as caught:
            tiny.encode(["a", LONG, FITS, LONG], on_truncation="warn")
        assert str(caught[0].message) == "2 of 4 texts truncated to 48 tokens: texts[1], texts[3]"
        assert caught[0].filename == __file__
        assert len(caught) == 1

    def test_are_an_error_before_the_model_runs(self, tiny: Embedder, batches: list[tuple[int, ...]]) -> None:
        with pytest.raises(TruncationError, match=r"^texts\[1\], texts\[3\]: longer than the 48 tokens that the model"):
            tiny.encode(["a", LONG, FITS, LONG], on_truncation="error")
        assert batches == []

    def test_are_counted_over_slices(self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner_module, "_SLICE", 3)
        texts = ["a", "a", LONG, "a", "a", "a", LONG, "a"]
        with pytest.warns(TruncationWarning, match=r"^2 of 8 texts truncated to 48 tokens: texts\[2\], texts\[6\]$"):
            tiny.encode(texts, on_truncation="warn")
        with pytest.raises(TruncationError, match=r"^texts\[2\]: longer"):
            tiny.encode(texts, on_truncation="error")

    def test_a_prompt_counts(self, tiny: Embedder) -> None:
        with pytest.raises(TruncationError, match=r"^texts\[0\]: longer"):
            tiny.encode(FITS, prompt="one ", on_truncation="error")

    @pytest.mark.parametrize("policy", ["warn", "error"])
    def test_what_fits_passes(self, tiny: Embedder, policy: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert tiny.encode([FITS, "a"], on_truncation=policy).shape == (2, 32)

    @pytest.mark.parametrize("policy", ["Warn", "", None, True, ["warn"]])
    def test_a_wrong_policy(self, tiny: Embedder, policy: Any) -> None:
        with pytest.raises(
            ValueError, match="on_truncation: expected one of 'ignore', 'warn', 'error', got "
        ) as caught:
            tiny.encode("a", on_truncation=policy)
        assert repr(policy) in str(caught.value)

    def test_their_number_is_in_the_log(self, tiny: Embedder, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="embedrt"):
            tiny.encode(["a", LONG, LONG], show_progress_bar=False)
            tiny.encode(["a", FITS], show_progress_bar=False)
        assert [record.getMessage() for record in caplog.records] == ["2 of 3 texts truncated to 48 tokens"]


class TestProgressBar:
    @pytest.mark.parametrize(
        ("asked", "level", "shown"),
        [
            (True, logging.WARNING, True),
            (False, logging.INFO, False),
            (None, logging.INFO, True),
            (None, logging.DEBUG, True),
            (None, logging.WARNING, False),
        ],
    )
    @pytest.mark.parametrize("count", [3, 400])
    def test_is_shown_where_asked_for(
        self,
        tiny: Embedder,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
        asked: bool | None,
        level: int,
        shown: bool,
        count: int,
    ) -> None:
        with caplog.at_level(level, logger="embedrt"):
            tiny.encode(["one two"] * count, show_progress_bar=asked)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert (f"{count}/{count}" in printed.err) is shown
        assert ("Encoding" in printed.err) is shown


class TestNonFinite:
    @pytest.fixture(params=[np.nan, np.inf, -np.inf])
    def poisoned(self, request: pytest.FixtureRequest, bundle: Path) -> Embedder:
        poison(bundle, "river", request.param)
        return Embedder(bundle)

    def test_the_text_is_named(self, poisoned: Embedder) -> None:
        with pytest.raises(NonFiniteError) as caught:
            poisoned.encode(["a", "by the river", "a", "one " * 40])
        assert str(caught.value) == (
            f"texts[1]: the model returned NaN or infinity ({poisoned.engine}); check the model with `embedrt verify "
            f"{poisoned.folder}`"
        )
        assert "CPUExecutionProvider" in poisoned.engine

    def test_one_text(self, poisoned: Embedder) -> None:
        with pytest.raises(NonFiniteError, match=r"^texts\[0\]: "):
            poisoned.encode("river")

    @pytest.mark.parametrize("at", [0, 3, 4, 9])
    def test_it_is_named_in_every_slice(self, poisoned: Embedder, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        monkeypatch.setattr(runner_module, "_SLICE", 4)
        texts = [f"one {'two ' * i}" for i in range(10)]
        texts[at] = "river"
        with pytest.raises(NonFiniteError, match=rf"^texts\[{at}\]: the model"):
            poisoned.encode(texts)

    def test_in_coordinates_that_are_truncated_away_it_counts_too(self, poisoned: Embedder) -> None:
        with pytest.raises(NonFiniteError):
            poisoned.encode(["a", "river"], truncate_dim=2)

    def test_other_texts_are_served_after_it(self, poisoned: Embedder, tiny: Embedder) -> None:
        with pytest.raises(NonFiniteError):
            poisoned.encode(["river"] * 100)
        assert_close(poisoned.encode(TEXTS[:1]), tiny.encode(TEXTS[:1]))


def test_after_a_failure_the_remaining_batches_are_not_run(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    run, started = embedder.runners["default"].engine.run, []

    def fail_first(batch: Batch, outputs: Sequence[str]) -> Any:
        started.append(batch)
        if len(started) == 1:
            raise InferenceError("mine")
        return run(batch, outputs)

    monkeypatch.setattr(embedder.runners["default"].engine, "run", fail_first)
    with pytest.raises(InferenceError, match=r"^mine$"):
        embedder.encode(["one two"] * 1000, batch_size=1)
    assert len(started) < 500


class TestWrongGraphs:
    """Graphs that do not return what the manifest says."""

    @pytest.mark.parametrize("declared", [True, False])
    @pytest.mark.parametrize("dim", [1, 16, 64])
    @pytest.mark.parametrize("texts", ["a", ["a", "one two"]])
    def test_vectors_of_another_width(self, bundle: Path, dim: int, texts: Any, declared: bool) -> None:
        def edit(graph: onnx.GraphProto) -> None:
            parts = [onnx.numpy_helper.from_array(np.array([v]), n) for n, v in (("from", 0), ("to", dim), ("axis", 1))]
            graph.initializer.extend(parts)
            twice = onnx.helper.make_node("Concat", ["plain", "plain"], ["twice"], axis=1)
            cut = onnx.helper.make_node("Slice", ["twice", "from", "to", "axis"], ["sentence_embedding"])
            if not declared:  # the number of coordinates to keep is known only when the graph runs
                lengths = onnx.helper.make_node("Shape", ["input_ids"], ["lengths"])
                zero = onnx.helper.make_node("Sub", ["lengths", "lengths"], ["zeros"])
                graph.node.extend([lengths, zero])
                last = onnx.helper.make_node("ReduceSum", ["zeros"], ["none"], keepdims=1)
                to = onnx.helper.make_node("Add", ["none", "to"], ["to_there"])
                graph.node.extend([last, to])
                cut.input[2] = "to_there"
            replace_output(graph, twice, cut, dim=dim)
            if not declared:
                (output,) = (output for output in graph.output if output.name == "sentence_embedding")
                output.type.tensor_type.shape.dim[1].dim_param = "width"

        edit_graph(bundle, edit)
        message = rf"expected vectors of shape \[32\] from the graph, got \[{dim}\]"
        if declared:
            message = rf"expected sentence_embedding of width 32, as in the manifest, got {dim}"
        with pytest.raises(BundleError, match=message):
            Embedder(bundle).encode(texts)

    def test_no_such_output(self, bundle: Path) -> None:
        def rename(graph: onnx.GraphProto) -> None:
            replace_output(graph, onnx.helper.make_node("Identity", ["plain"], ["other"]))
            for output in graph.output:
                output.name = "other" if output.name == "sentence_embedding" else output.name

        edit_graph(bundle, rename)
        with pytest.raises(BundleError, match=r"expected the output sentence_embedding, .* got .*, other; export"):
            Embedder(bundle).encode("a")

    def test_a_token_beyond_the_table(self, tiny: Embedder) -> None:
        feeds = tiny.tokenize("one")
        feeds["input_ids"][0, 1] = 10**6
        with pytest.raises(EngineError, match=r"^ONNX Runtime failed on a batch of 1 x 3 tokens: "):
            tiny.runners["default"].engine.run(Batch(feeds, alone=True), ["sentence_embedding"])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemory),
        ("Failed to allocate memory for requested buffer of size 4096", OutOfMemory),
        ("std::bad_alloc", OutOfMemory),
        ("CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory),
        ("Invalid Feed Input Name:x", EngineError),
    ],
)
def test_engine_errors_are_typed(
    tiny_bundle: Path, message: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", failing(RuntimeError(message), "onnxruntime.capi"))
    with pytest.raises(InferenceError) as caught:
        embedder.encode("a")
    assert type(caught.value) is kind
    error: BaseException | None = caught.value
    if kind is OutOfMemory:
        assert str(error).startswith(
            "texts[0]: expected a text that fits into the memory of 'cpu', got 3 tokens; use a "
        )
        assert error is not None
        error = error.__cause__
    assert str(error) == f"ONNX Runtime failed on a batch of 1 x 3 tokens: {message}"


class TestThreads:
    def test_eight_threads_get_what_one_gets(self, model: Embedder) -> None:
        work = [[f"{'one two ' * (i * j % 20)} {i}" for j in range(1, 11)] for i in range(8)]
        expected = [model.encode(texts) for texts in work]
        with ThreadPoolExecutor(8) as pool:
            for vectors, one in zip(pool.map(model.encode, work), expected, strict=True):
                assert_close(vectors, one)

    def test_the_first_use_may_be_by_eight_threads(
        self, tiny_bundle: Path, tiny: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = [TEXTS * 20 if i % 2 else TEXTS[:1] for i in range(8)]
        expected = [tiny.encode(texts) for texts in work]
        made = count_sessions(monkeypatch)
        embedder = Embedder(tiny_bundle, threads=2)
        together = Barrier(8)

        def first_use(texts: list[str]) -> Vectors:
            together.wait(timeout=60)
            return embedder.encode(texts)

        with ThreadPoolExecutor(8) as pool:
            for vectors, same in zip(pool.map(first_use, work), expected, strict=True):
                assert_close(vectors, same)
        assert sorted(one.threads for one in made) == [1, 2]

    def test_eight_threads_may_load(self, tiny_bundle: Path, tiny: Embedder) -> None:
        with ThreadPoolExecutor(8) as pool:
            for vector in pool.map(lambda _: Embedder(tiny_bundle).encode("one cat"), range(8)):
                assert_close(vector, tiny.encode("one cat"))

    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_the_number_changes_nothing(self, tiny_bundle: Path, tiny: Embedder, threads: int) -> None:
        texts = TEXTS * 20
        assert_close(Embedder(tiny_bundle, threads=threads).encode(texts), tiny.encode(texts))

    @pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
    def test_a_wrong_number(self, tiny_bundle: Path, threads: Any) -> None:
        with pytest.raises(ValueError, match="threads: expected a positive integer, got ") as caught:
            Embedder(tiny_bundle, threads=threads)
        assert repr(threads) in str(caught.value)


class Stub:
    """A session that loaded on another provider than it was asked for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def disable_fallback(self) -> None:
        pass

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that claims to have CUDA, and two cards."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    card = cuda_setup.Card("a card", (9, 0), 1 << 34)
    facts = cuda_setup.Facts({}, "1.31.1", tuple(providers), "linux", True, 13000, 0, (card, card), None, {})
    monkeypatch.setattr(cuda_setup, "facts", lambda: facts)


UNKNOWN_DEVICES = ["gpu", "CPU", "", "cpu:0", "cpu:GPU", "mps:1", "cuda:", "cuda:-1", "cuda:x", "cuda:GPU", 3, "cuda 1"]
UNKNOWN_DEVICES += ["openvino:", "openvino:1", "openvino:gpu", "openvino:CPU.0", "openvino:AUTO", "openvino:GPU."]
UNKNOWN_DEVICES += ["coreml:", "coreml:0", "coreml:gpu", "coreml:CPUAndGPU", "mps:GPU"]
CPU_WHEEL = (
    f": the installed onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider; run `pip uninstall -y "
    "onnxruntime`, then `pip install 'embedrt[gpu]'`, or use device='cpu'"
)
NO_COREML = (
    f" needs CoreMLExecutionProvider, but the installed onnxruntime {onnxruntime.__version__} has only "
    "CPUExecutionProvider; the wheel for macOS has it; use device='cpu'"
)


class TestDevices:
    @pytest.mark.parametrize("name", [None, "auto", "cpu"])
    def test_the_processor(self, tiny_bundle: Path, name: str | None) -> None:
        embedder = Embedder(tiny_bundle, name)
        assert embedder.device == "cpu"
        assert embedder.engine.startswith("onnxruntime 1.")
        assert embedder.engine.endswith(" CPUExecutionProvider")

    @pytest.mark.parametrize("name", UNKNOWN_DEVICES)
    def test_an_unknown_name(self, tiny_bundle: Path, name: Any) -> None:
        with pytest.raises(DeviceError) as caught:
            Embedder(tiny_bundle, name)
        meant = " (did you mean 'cuda'?)" if name == "gpu" else ""
        expected = f"device: {name!r} is unknown{meant}; known: auto, cpu, cuda, coreml, openvino, "
        expected += "cuda:INDEX, coreml:GPU, coreml:NPU, openvino:GPU, openvino:NPU, mps"
        assert str(caught.value) == expected

    @pytest.mark.parametrize(
        ("name", "rest"),
        [
            *((name, CPU_WHEEL) for name in ("cuda", "cuda:1")),
            *((name, NO_COREML) for name in ("coreml", "mps")),
        ],
    )
    def test_a_device_that_this_wheel_has_not(
        self,
        tiny_bundle: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        rest: str,
    ) -> None:
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        monkeypatch.setattr(cuda_setup, "facts", cuda_setup.gather)
        with pytest.raises(DeviceError) as caught:
            Embedder(tiny_bundle, name)
        assert str(caught.value) == f"device: {name!r}{rest}"
        assert capfd.readouterr() == ("", "")

    def test_auto_never_takes_coreml(self, monkeypatch: pytest.MonkeyPatch) -> None:
        providers = ["CoreMLExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
        assert find_device("coreml").name == "coreml"
        assert find_device("auto").name == find_device(None).name == "cpu"

    @pytest.mark.usefixtures("with_cuda")
    def test_auto_takes_cuda_or_says_why_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = replace(cuda_setup.facts(), cards=())
        monkeypatch.setattr(cuda_setup, "facts", lambda: broken)
        with pytest.raises(DeviceError, match=r"^device: 'cuda': the NVIDIA driver finds no GPU; .*, or use device="):
            find_device("auto")

    @pytest.mark.usefixtures("with_cuda")
    def test_names_of_a_graphics_processor(self) -> None:
        assert find_device("auto").name == find_device(None).name == "cuda"
        assert find_device("cpu").name == "cpu"
        second = find_device("cuda:1")
        assert (second.name, second.kind, second.provider) == ("cuda:1", "cuda", "CUDAExecutionProvider")
        assert second.token_budget == find_device("cuda").token_budget > find_device("cpu").token_budget

    @pytest.mark.usefixtures("with_cuda")
    @pytest.mark.parametrize("name", ["cuda", "cuda:1", "auto"])
    def test_an_engine_that_quietly_took_another_provider(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr("onnxruntime.InferenceSession", Stub)
        message = "needs CUDAExecutionProvider, but ONNX Runtime loaded CPUExecutionProvider instead"
        with pytest.raises(DeviceError, match=message):
            Embedder(tiny_bundle, name)

    @pytest.mark.usefixtures("with_cuda")
    @pytest.mark.skipif(
        "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers(), reason="CUDA works here"
    )
    @pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
    def test_the_real_engine_does_not_fall_back(self, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(DeviceError, match="CUDAExecutionProvider"):
            Embedder(tiny_bundle, "cuda")
        assert capfd.readouterr().out == ""

    @pytest.mark.parametrize("dtype", ["int4", "float", "", "FP32", 32, ["float32"]])
    def test_an_unknown_dtype(self, tiny_bundle: Path, dtype: Any) -> None:
        known = "'float32', 'float16', 'bfloat16', 'int8', 'tf32'"
        with pytest.raises(ValueError, match=re.escape(f"dtype: expected one of {known}, got {dtype!r}")):
            Embedder(tiny_bundle, dtype=dtype)

    @pytest.mark.parametrize(
        ("dtype", "message"),
        [
            ("int8", r"'int8' is not in it; it has float32; `embedrt export SOURCE --dtype float32,int8` makes"),
            (
                "float16",
                r"'float16' is not in it; it has float32; `embedrt export .*,float16` makes .*, for device cuda$",
            ),
            ("fp16", r"'float16' is not in it; .*`embedrt export .*,float16` makes .*, for device cuda$"),
        ],
    )
    def test_a_dtype_that_the_bundle_lacks(self, tiny_bundle: Path, dtype: str, message: str) -> None:
        with pytest.raises(BundleError, match=message):
            Embedder(tiny_bundle, dtype=dtype)

    def test_the_runtime_knows_the_dtypes_of_the_exporter(self) -> None:
        assert tuple(WRITERS) == DTYPES

    @pytest.mark.parametrize("dtype", [None, "auto", "float32", "fp32"])
    def test_spellings_of_the_usual_dtype(self, tiny_bundle: Path, dtype: str | None) -> None:
        assert Embedder(tiny_bundle, dtype=dtype).dtype == "float32"


PARENT = """
import faulthandler, os, sys
import embedrt

embedder = embedrt.Embedder(sys.argv[1], threads=3)
embedder.encode("one two")            # a session with threads of its own
embedder.encode(["one two " * 20] * 70)  # and one without
sys.stdout.flush()
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(20, exit=True)
    CHILD
    sys.exit(0)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(embedder.encode("one two").shape)
"""
TRY = """
    for texts in ("one two", ["one two " * 20] * 70):
        try:
            embedder.encode(texts)
        except embedrt.InferenceError as error:
            print(error)
"""
FORKED = (
    "this model was loaded before the process forked, and neither the tokenizer nor ONNX Runtime survives a fork; "
    "load it in the child, or start processes with spawn\n"
)


def fork(bundle: Path, child: str, **environment: str) -> str:
    """What parent and child print when the child runs this code after `os.fork()`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PARENT.replace("    CHILD", child), str(bundle)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
class TestFork:
    @pytest.mark.subprocess
    @pytest.mark.parametrize("parallelism", ["true", "false"])
    def test_the_child_is_told_and_ends_well(self, tiny_bundle: Path, parallelism: str) -> None:
        printed = fork(tiny_bundle, TRY, TOKENIZERS_PARALLELISM=parallelism)
        assert printed == FORKED * 2 + "child 0\n(32,)\n"

    @pytest.mark.subprocess
    def test_a_child_that_never_encodes_ends_well(self, tiny_bundle: Path) -> None:
        """The engine's destructor waits for threads that the child has not: without care one of four children hangs."""
        with ThreadPoolExecutor(2) as pool:
            printed = list(pool.map(lambda _: fork(tiny_bundle, ""), range(8)))
        assert printed == ["child 0\n(32,)\n"] * 8

    @pytest.mark.subprocess
    def test_a_child_may_load_the_model_itself(self, tiny_bundle: Path) -> None:
        child = "    print(embedrt.Embedder(sys.argv[1], threads=3).encode('one two').shape)"
        assert fork(tiny_bundle, child) == "(32,)\nchild 0\n(32,)\n"


def test_the_default_model_is_loaded_once(
    tiny_bundle: Path, prompted_bundle: Path, tiny: Embedder, prompted: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedrt, "_loaded", {})
    monkeypatch.setenv("EMBEDRT_MODEL", str(tiny_bundle))
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(embedrt.encode, [TEXTS] * 4):
            assert_close(vectors, tiny.encode(TEXTS))
    loaded = dict(embedrt._loaded)
    assert list(loaded) == [str(tiny_bundle)]
    embedrt.encode("a")
    assert embedrt._loaded == loaded
    monkeypatch.setenv("EMBEDRT_MODEL", str(prompted_bundle))
    vectors = embedrt.encode(TEXTS, "query", normalize_embeddings=True, truncate_dim=7, batch_size=3)
    assert_close(vectors, prompted.encode(TEXTS, "query", normalize_embeddings=True, truncate_dim=7))


def test_the_function_and_the_method_take_the_same_arguments() -> None:
    from inspect import signature

    method = dict(signature(Embedder.encode).parameters)
    del method["self"]
    assert list(signature(embedrt.encode).parameters.values()) == list(method.values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": ["x"]}, TypeError, "task: expected str or None, got list"),
        ({"prompt_name": ["x"]}, ValueError, "prompt_name: expected one of 'query', 'document'"),
        ({"sentences": "b"}, TypeError, "sentences: the old name of inputs, which is given too"),
        ({"ranges": [[0.0], [1.0]]}, ValueError, "ranges: expected None for precision='float32'; only"),
        ({"chunk_size": 0}, ValueError, "chunk_size: expected a positive integer, got 0"),
        ({"output_value": "tokens"}, ValueError, "output_value: expected one of 'sentence_embedding', 'token_"),
        ({"precision": "float16"}, ValueError, "precision: expected one of 'float32', 'int8', 'uint8', 'binary', "),
        (
            {"precision": "int8", "output_value": None},
            ValueError,
            "precision: expected 'float32' for output_value=None",
        ),
    ],
)
def test_arguments_that_are_wrong(
    tiny: Embedder, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        tiny.encode("a", **options)
    assert str(caught.value).startswith(message)


def test_ranges_of_a_calibrated_bundle(tiny: Embedder, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    ranges = np.stack([np.full(32, -0.6), np.linspace(0.3, 0.9, 32)])
    change(bundle, lambda raw: raw.update(vector_ranges=ranges.tolist()))
    model = Embedder(bundle)
    expected = tiny.encode(["one", "two"], precision="int8", ranges=ranges)
    np.testing.assert_array_equal(model.encode(["one", "two"], precision="int8"), expected)
    np.testing.assert_array_equal(model.encode("two", precision="int8"), expected[1])
    np.testing.assert_array_equal(model.encode("two", precision="int8", truncate_dim=8), expected[1, :8])
    np.testing.assert_array_equal(model.encode("two", precision="int8", normalize_embeddings=True), expected[1])
    with pytest.raises(ValueError, match="but normalize_embeddings=True scales them; pass the ranges of normalized"):
        model.encode("two", precision="int8", normalize_embeddings=True, truncate_dim=8)

"""A packed graph has the results of a padded one, through every way of calling it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import BundleError, Embedder
from embedrt.bundle.manifest import Packing
from embedrt.engine import Batch
from embedrt.errors import NonFiniteError
from embedrt.run.request import Request
from embedrt.run.runner import Runner
from embedrt.tasks.embed import SentenceVectors, TokenVectors
from tests.kit.shared_folders import shared_folder
from tests.kit.two_layouts import PACKING, bundle

TEXTS = ["one cat", "", "two dogs " * 9, "one", "two cat one dogs", "x" * 50, "a b c"]
MANY = [f"{'one two cat ' * (i * 7 % 15)}{i}" for i in range(700)]


@pytest.fixture(scope="module")
def folders(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in both layouts."""

    def make(packing: Packing | None) -> Callable[[Path], Path]:
        return lambda folder: bundle(tiny_bundle, folder, packing)

    layouts = {"padded": None, "packed": PACKING}
    return {
        name: shared_folder(tmp_path_factory, f"layouts/{name}", make(packing)) for name, packing in layouts.items()
    }


@pytest.fixture(scope="module")
def padded(folders: dict[str, Path]) -> Embedder:
    return Embedder(folders["padded"], threads=2)


@pytest.fixture(scope="module")
def packed(folders: dict[str, Path]) -> Embedder:
    return Embedder(folders["packed"], threads=2)


class Seen:
    """The batches that an engine runs."""

    def __init__(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[Batch] = []
        self._run = runner.engine.run
        monkeypatch.setattr(runner.engine, "run", self.run)

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        self.batches.append(batch)
        return self._run(batch, outputs)


@pytest.mark.parametrize("texts", [["one cat"], TEXTS, MANY])
def test_sentence_embeddings(padded: Embedder, packed: Embedder, texts: list[str]) -> None:
    np.testing.assert_allclose(packed.encode(texts), padded.encode(texts), atol=1e-6)


def test_token_embeddings(padded: Embedder, packed: Embedder) -> None:
    found, expected = (one.encode(MANY, output_value="token_embeddings") for one in (packed, padded))
    for values, wanted in zip(found, expected, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, wanted, atol=1e-6)


def test_all_features(padded: Embedder, packed: Embedder) -> None:
    found, expected = (one.encode(TEXTS, output_value=None) for one in (packed, padded))
    for features, wanted in zip(found, expected, strict=True):
        assert {name: array.dtype for name, array in features.items()} == {
            name: array.dtype for name, array in wanted.items()
        }
        for name, array in wanted.items():
            np.testing.assert_allclose(features[name], array, atol=1e-6, err_msg=name)


def test_preprocess_describes_padded_inputs(padded: Embedder, packed: Embedder) -> None:
    found, expected = packed.preprocess(TEXTS), padded.preprocess(TEXTS)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_batches_have_no_padding(packed: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = packed.runners["default"]
    seen = Seen(runner, monkeypatch)
    packed.encode(MANY)
    total = sum(len(batch.feeds["input_ids"]) for batch in seen.batches)
    assert total == sum(batch.tokens for batch in seen.batches) == len(runner.tokenize(MANY).ids)
    assert all(set(batch.feeds) == set(PACKING.inputs) for batch in seen.batches)


def test_calls_of_many_threads(packed: Embedder, padded: Embedder) -> None:
    texts = [MANY[i : i + 1 + i % 3] for i in range(200)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(packed.encode, texts))
    for values, one in zip(found, texts, strict=True):
        np.testing.assert_allclose(values, padded.encode(one), atol=1e-6)


def test_long_and_short_calls_are_joined(packed: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded batch would not take them together: the padding would cost more than a batch of its own."""
    runner = packed.runners["default"]
    tokens = runner.tokenize(["one two " * 20, "one", "two", "one cat"])
    coalescer = runner._coalescer
    outputs = ("sentence_embedding",)
    alone = [coalescer.run(tokens, np.array([i]), 42, outputs, max_tokens=512)[1][outputs[0]] for i in range(4)]
    seen = Seen(runner, monkeypatch)
    with ThreadPoolExecutor(4) as pool, monkeypatch.context() as patched:
        patched.setattr(coalescer, "_slots", 0)  # all of them wait
        calls = [
            pool.submit(coalescer.run, tokens, np.array([i]), int(tokens.lengths[i]), outputs, max_tokens=512)
            for i in range(4)
        ]
        turns = threading.Event()
        for _ in range(3000):
            if len(coalescer._waiting) == 4:
                break
            turns.wait(0.01)
        patched.setattr(coalescer, "_slots", 1)
        coalescer._locked(coalescer._promote)
        found = [call.result(30)[1][outputs[0]] for call in calls]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(alone), atol=1e-6)
    assert [batch.shape[0] for batch in seen.batches] == [4]
    assert seen.batches[0].tokens == len(tokens.ids)


def test_one_batch_for_all(packed: Embedder, padded: Embedder) -> None:
    runners = [one.runners["default"] for one in (packed, padded)]
    request = Request(SentenceVectors(32), 48)
    found, expected = (runner.run_in_one_batch(MANY, request).values for runner in runners)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("output", ["sentence_embedding", "token_embeddings"])
def test_a_number_that_is_none_names_its_text(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    runner = Embedder(folders["packed"], threads=1).runners["default"]
    run = runner.engine.run

    def poison(batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        results = dict(run(batch, outputs))
        if "sentence_embedding" in results:
            results["sentence_embedding"][1, 3] = np.nan
        if "token_embeddings" in results:
            assert batch.spans is not None
            results["token_embeddings"][batch.spans[1, 1] - 1, 3] = np.inf
            nobody = np.full((2, 32), np.nan, np.float32)  # tokens that belong to no text
            results["token_embeddings"] = np.concatenate([results["token_embeddings"], nobody])
        return results

    monkeypatch.setattr(runner.engine, "run", poison)
    gather: Any = SentenceVectors(32) if output == "sentence_embedding" else TokenVectors()
    texts = ["one cat two dogs", "two dogs one", "one"]  # longest first, as they are planned
    with pytest.raises(NonFiniteError, match=r"^texts\[1\]: the model returned NaN"):
        runner.run(texts, Request(gather, 48))


def test_an_input_that_only_a_newer_version_knows(tiny_bundle: Path, tmp_path: Path) -> None:
    packing = replace(PACKING, inputs=(*PACKING.inputs, "phases"))
    with pytest.raises(BundleError, match=r"packing\.inputs of embedrt\.json: phases unknown; update embedrt"):
        Embedder(bundle(tiny_bundle, tmp_path / "newer", packing))


def test_inputs_that_the_graph_does_not_have(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = bundle(tiny_bundle, tmp_path / "other", replace(PACKING, inputs=(*PACKING.inputs, "first_rows")))
    with pytest.raises(BundleError, match=r"packed\.onnx: expected the inputs .*, first_rows, as in the manifest, got"):
        Embedder(folder).encode("one")

"""Typed lies for every key of the manifest: a BundleError, or a model that works."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import BundleError, DeviceError, Embedder, ParityError
from embedrt.bundle.facts import facts, proofs
from tests.kit.bundles import copy_bundle, read_raw, write_raw

INTEGERS = [-(2**63), -1, 0, 1, 2, 3, 31, 2**20, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 10**300]
FLOATS = [-1e308, -1.0, 0.0, 0.5, 1.0, 2.0, 1e308]
STRINGS = ["", "x", "cosine", "\ud800", "\udfff x", "a\nb", "../x", "tokenizer.json", "onnx/model.onnx", "x" * 5000]
OTHERS = [None, True, False, [], {}, [1], ["x"], {"x": "default"}, [["x"]]]
LIES: list[Any] = [*INTEGERS, *FLOATS, *STRINGS, *OTHERS]
TEXTS = ["the cat", "", "one two three " * 30]
# Two files and one variant stand for all.
SKIPPED = {
    ("files", name)
    for name in ("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json")
} | {("routes", "default", "variants", 1)}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path in SKIPPED:
        return
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(raw))
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed


def use(folder: Path) -> None:
    """Everything that a manifest has a part in."""
    model = Embedder(folder, "cpu", threads=1, verify="never")
    assert [*facts(model.manifest), *proofs(model.manifest)]
    task = next(iter(model.manifest.tasks)) or None
    dim = model.get_embedding_dimension()
    vectors = model.encode(TEXTS, task=task)
    assert vectors.shape == (3, dim)
    assert np.isfinite(vectors).all()
    assert model.encode(TEXTS[0], task=task).shape == (dim,)
    if model.manifest.routes["default"].has_token_embeddings:
        assert len(model.encode(TEXTS, output_value="token_embeddings", task=task)) == 3
    model.similarity(vectors, vectors)
    model.tokenizer(TEXTS)
    model.token_count(TEXTS, task=task)
    model.encode_long(TEXTS, prompt="", task=task)
    model.encode(TEXTS, precision="int8", task=task)
    assert json.dumps(model.fingerprint)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("part", range(4))
def test_lies(tiny_bundle: Path, tmp_path: Path, part: int) -> None:
    folder, raw = copy_bundle(tiny_bundle, tmp_path / "bundle"), read_raw(tiny_bundle)
    raw["prompts"], raw["default_prompt_name"] = {"query": "the "}, "query"
    raw["vector_ranges"] = [[-1.0] * 32, [1.0] * 32]
    paths = [path for path in places(raw) if path[:1] != ("vector_ranges",) or len(path) < 3 or path[2] == 0]
    outcomes = {"works": 0, "refused": 0}
    for path, lie in itertools.islice(itertools.product(paths, LIES), part, None, 4):
        write_raw(folder, replaced(raw, path, lie))
        try:
            use(folder)
        except BundleError as error:
            outcomes["refused"] += 1
            message = str(error)
        except Exception as error:
            if not (isinstance(error, DeviceError) and "devices" in path):  # which names kinds that others may have
                raise AssertionError(f"{path} = {str(lie)[:60]!r}: {type(error).__name__}: {error}") from error
            message = str(error)
        else:
            outcomes["works"] += 1
            continue
        assert message.encode()  # no surrogates, which no stream in UTF-8 takes
        assert str(folder) in message or message.startswith("token id"), (path, lie)
    assert outcomes["works"] > 100
    assert outcomes["refused"] > 300


@pytest.mark.parametrize("name", ["parity_texts", "parity_vectors"])
@pytest.mark.parametrize("file", ["config.json", "modules.json", "onnx/model.onnx", "parity/texts.json"])
def test_a_proof_in_another_file(tiny_bundle: Path, tmp_path: Path, name: str, file: str) -> None:
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    write_raw(folder, replaced(read_raw(folder), ("routes", "default", name), file))
    if (name, file) == ("parity_texts", "parity/texts.json"):
        assert embedrt.verify(folder)
        return
    with pytest.raises((BundleError, ParityError)):
        embedrt.verify(folder)

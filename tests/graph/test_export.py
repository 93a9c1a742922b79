"""Export end to end: model folder to bundle, where it goes, what it proves, and when it must not."""

import dataclasses
import errno
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import BundleError, Embedder, ExportError, ModelNotFoundError, ParityError, UnsupportedModelError
from embedrt.bundle.check import VERIFIED
from embedrt.bundle.manifest import MANIFEST, MOST_TOKENS, Tokenization, read_bundle
from embedrt.bundle.reports import ParityReport
from embedrt.hub.local import stored, stored_path
from embedrt.verify.bundle import verify
from embedrt_export import export, pipeline
from embedrt_export.dtypes import float32
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.proof import reference
from embedrt_export.proof.reference import Reference, digest, find_reference
from embedrt_export.proof.texts import parity_texts
from embedrt_export.routes.encoder import max_seq_length, position_limit
from embedrt_export.tokenizer import BuiltTokenizer
from tests.kit.bundles import parity
from tests.kit.edits import edit_json, edit_weights, shard
from tests.kit.formulas import sentence_vector
from tests.kit.models import make_model, write_json

TEXTS = ["", "the cat sat on a river bank", "a <pad> b [PAD] c", "Ünïcode ß 千里 🙂", "two " * 200]
TIMEOUT = 120


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m embedrt` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "embedrt", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def no_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without it, whatever the environment of this run has."""
    monkeypatch.setattr(reference, "find_spec", lambda _: None)


# Architecture, pooling, normalized, config: everything small, odd or extreme in some way.
MODELS: dict[str, tuple[str, str | list[str], bool, dict[str, Any]]] = {
    "bert": ("bert", "mean", True, {}),
    "bert raw": ("bert", "mean", False, {}),
    "bert cls": ("bert", "cls", True, {}),
    "bert max raw": ("bert", "max", False, {}),
    "bert three poolings": ("bert", ["max", "cls", "mean"], True, {}),
    "bert one layer, one head": ("bert", "mean", True, {"num_hidden_layers": 1, "num_attention_heads": 1}),
    "bert width 24": ("bert", "cls", False, {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 7}),
    "bert 33 positions": ("bert", "mean", True, {"max_position_embeddings": 33}),
    "bert one type": ("bert", "mean", True, {"type_vocab_size": 1}),
    "bert epsilon": ("bert", "mean", True, {"layer_norm_eps": 0.5, "hidden_act": "gelu_new"}),
    "bert relu": ("bert", "mean", True, {"hidden_act": "relu", "num_hidden_layers": 3}),
    "mpnet": ("mpnet", "mean", True, {}),
    "mpnet raw": ("mpnet", "mean", False, {}),
    "mpnet cls": ("mpnet", "cls", True, {}),
    "mpnet max raw": ("mpnet", "max", False, {}),
    "mpnet two poolings": ("mpnet", ["mean", "max"], True, {}),
    "mpnet one layer, one head": ("mpnet", "mean", True, {"num_hidden_layers": 1, "num_attention_heads": 1}),
    "mpnet width 24": ("mpnet", "cls", False, {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 7}),
    "mpnet 33 positions": ("mpnet", "mean", True, {"max_position_embeddings": 33}),
    "mpnet 40 buckets": ("mpnet", "mean", True, {"relative_attention_num_buckets": 40, "hidden_act": "silu"}),
    "mpnet far": ("mpnet", "mean", True, {"max_position_embeddings": 202}),
}


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_the_definition(tmp_path: Path, name: str) -> None:
    """Against formulas in float64 that share nothing with the graph."""
    architecture, pooling, normalized, config = MODELS[name]
    positions = config.get("max_position_embeddings", 64)
    length = positions if architecture == "bert" else positions - 2
    model = make_model(
        tmp_path / "model", architecture, pooling=pooling, normalize=normalized, max_seq_length=length, **config
    )

    embedder = Embedder(export(model, tmp_path / "bundle"))

    assert embedder.manifest.routes["default"].max_seq_length == length
    assert max(embedder.token_count(TEXTS)) == length
    expected = np.stack([sentence_vector(model, embedder.tokenize(text)["input_ids"][0].tolist()) for text in TEXTS])
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    assert np.abs(embedder.encode(TEXTS) - expected).max() / scale < 2e-6
    manifest, route = embedder.manifest, embedder.manifest.routes["default"]
    assert (route.architecture, route.via, route.normalized) == (architecture, "native", normalized)
    assert route.modules[1].settings["pooling_mode"] == ([pooling] if isinstance(pooling, str) else pooling)
    assert (manifest.dim, route.outputs["token_embeddings"].width) == (expected.shape[1], config.get("hidden_size", 32))
    if normalized:
        np.testing.assert_allclose(np.linalg.norm(embedder.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_manifest(tmp_path: Path) -> None:
    model = make_model(tmp_path / "my model", prompts={"query": "q: ", "passage": "p: "})
    edit_json(
        model / "config_sentence_transformers.json",
        default_prompt_name="query",
        truncate_dim=8,
        similarity_fn_name="dot",
    )
    manifest = read_bundle(export(model, tmp_path / "bundle"))
    assert manifest.name == "my-model"
    assert dataclasses.asdict(manifest.source) == {"kind": "folder", "id": "my-model", "revision": None}
    assert manifest.prompts == {"query": "q: ", "passage": "p: "}
    assert (manifest.default_prompt_name, manifest.truncate_dim, manifest.similarity_fn_name) == ("query", 8, "dot")
    assert [module.type for module in manifest.routes["default"].modules] == ["Transformer", "Pooling", "Normalize"]
    assert set(manifest.made_with) == {"embedrt", "python", "numpy", "onnx", "safetensors", "tokenizers"}
    assert manifest.made_with["embedrt"] == embedrt.__version__
    assert str(tmp_path) not in (tmp_path / "bundle" / MANIFEST).read_text()


def test_bundle_has_the_configs_of_the_model_for_other_tools(model: Path, tmp_path: Path) -> None:
    write_json(model / "special_tokens_map.json", {"pad_token": "[PAD]"})
    write_json(model / "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})
    (model / "README.md").write_text("not for machines")
    bundle = export(model, tmp_path / "bundle")
    copied = {
        *("config.json", "modules.json", "sentence_bert_config.json", "tokenizer_config.json"),
        *("config_sentence_transformers.json", "special_tokens_map.json"),
        *("1_Pooling/config.json", "2_Normalize/config.json"),
    }
    made = {"tokenizer.json", "parity/texts.json", "parity/vectors.npy"}
    made |= {"onnx/model.onnx", "onnx/model_cpu.onnx", "onnx/model.onnx_data"}
    assert set(contents(bundle)) == copied | made | {MANIFEST}
    assert set(read_bundle(bundle).files) == copied | made
    changed = {"config.json", "tokenizer_config.json"}
    for name in copied - changed:
        assert (bundle / name).read_bytes() == (model / name).read_bytes()
    for name in changed:
        of_bundle, of_model = (json.loads((folder / name).read_bytes()) for folder in (bundle, model))
        assert of_bundle.keys() >= of_model.keys()
        assert {key for key in of_bundle if of_bundle[key] != of_model.get(key)} <= {
            "transformers.js_config",
            "model_max_length",
        }
    assert not any(path.is_symlink() for path in bundle.rglob("*"))


@pytest.mark.parametrize("dtypes", [["float32"], ["float32", "int8"], ["int8"]])
def test_configs_tell_other_tools_where_weights_are_and_how_many_tokens_count(
    dtypes: list[str], tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model", hidden_size=64, intermediate_size=256)
    edit_json(model / "tokenizer_config.json", model_max_length=512)
    bundle = export(model, tmp_path / "bundle", dtype=dtypes)
    config = json.loads((bundle / "config.json").read_bytes())
    assert config["model_type"] == "bert"
    found = config["transformers.js_config"]
    files = {"float32": "model.onnx", "int8": "model_int8.onnx"}
    assert found["use_external_data_format"] == {files[dtype]: True for dtype in dtypes}
    assert found["dtype"] == {"float32": "fp32", "int8": "int8"}[dtypes[0]]
    for name in found["use_external_data_format"]:
        assert (bundle / "onnx" / name).is_file()
        assert (bundle / "onnx" / f"{name}_data").is_file()
    assert json.loads((bundle / "tokenizer_config.json").read_bytes())["model_max_length"] == 48
    read_bundle(bundle, "always")


def test_transformer_in_a_subfolder(model: Path, tmp_path: Path) -> None:
    flat = export(model, tmp_path / "flat")
    nested = tmp_path / "nested"
    shutil.copytree(model, nested)
    (nested / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (nested / name).rename(nested / "0_Transformer" / name)
    (nested / "sentence_bert_config.json").rename(nested / "0_Transformer" / "sentence_bert_config.json")
    text = (nested / "modules.json").read_text().replace('"path": ""', '"path": "0_Transformer"')
    (nested / "modules.json").write_text(text)

    bundle = export(nested, tmp_path / "bundle")

    assert read_bundle(bundle).fingerprint == read_bundle(flat).fingerprint
    assert (bundle / "0_Transformer" / "config.json").is_file()


def test_report(model: Path, tmp_path: Path, no_sentence_transformers: None) -> None:
    bundle = export(model, tmp_path / "bundle")
    manifest = read_bundle(bundle)
    report = parity(manifest)
    assert isinstance(report, ParityReport)
    texts = json.loads((bundle / "parity" / "texts.json").read_bytes())
    vectors = np.load(bundle / "parity" / "vectors.npy", allow_pickle=False)
    assert texts == parity_texts(48)
    assert (report.texts, report.max_tokens, report.tolerance) == (len(texts), 48, 1e-5)
    assert (vectors.shape, vectors.dtype) == ((len(texts), 32), np.float32)
    assert not report.independent
    assert report.reference.startswith("the same graph in onnx.reference 1.")
    assert re.fullmatch(r"onnxruntime \S+ CPUExecutionProvider", report.engine)
    assert 0 < report.max_abs_error < 1e-6
    assert 0 <= report.max_batch_error < 1e-6
    assert 0 <= report.max_norm_error < 1e-6
    assert 1 - 1e-6 < report.min_cosine <= 1 + 1e-9
    embedder = Embedder(bundle)
    errors = np.abs(embedder.encode(texts) - vectors).max(axis=1)
    assert errors.max() <= report.max_abs_error * (1 + 1e-6)
    assert verify(embedder) == {"default": report}


def test_parity_texts_reach_every_length_and_beyond(model: Path, tmp_path: Path) -> None:
    embedder = Embedder(export(model, tmp_path / "bundle"))
    texts = json.loads((tmp_path / "bundle" / "parity" / "texts.json").read_bytes())
    lengths = embedder.token_count(texts)
    assert {2, 3, 4, 6, 48} <= set(lengths)
    assert lengths.count(48) >= 4
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 64, 512, 514, 8192])
def test_parity_texts_of_any_limit(limit: int) -> None:
    counts = {len(text.split()) for text in parity_texts(limit)}
    reach = min(limit, 1024)
    assert {reach, reach - 1} & counts
    assert max(counts) >= reach
    assert len(parity_texts(limit)) < 60


def test_golden_vectors_come_before_the_evaluator(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sentence_transformers: None
) -> None:
    bundle = export(model, tmp_path / "first")
    texts, vectors = parity_texts(48), np.load(bundle / "parity" / "vectors.npy")
    golden = tmp_path / "golden" / f"{read_bundle(bundle).fingerprint}.npy"
    write_json(golden.with_suffix(".json"), {"made_with": "a trusted thing 1.2", "texts_sha256": digest(texts)})
    np.save(golden, vectors)
    monkeypatch.setattr(reference, "GOLDEN", golden.parent)

    report = parity(read_bundle(export(model, tmp_path / "second")))
    assert (report.reference, report.independent) == ("golden vectors of a trusted thing 1.2", True)

    np.save(golden, -vectors)
    with pytest.raises(ParityError, match="differ from golden vectors of a trusted thing"):
        export(model, tmp_path / "third")
    assert not (tmp_path / "third").exists()

    write_json(golden.with_suffix(".json"), {"made_with": "x", "texts_sha256": digest([*texts, "one more"])})
    assert not parity(read_bundle(export(model, tmp_path / "fourth"))).independent


def test_beyond_the_tolerance_there_is_no_bundle(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sentence_transformers: None
) -> None:
    def shifted(*arguments: Any) -> Reference:
        found = find_reference(*arguments)
        vectors = found.vectors.copy()
        vectors[4, 3] += 0.01
        vectors[7, 31] -= 0.02
        vectors[9, 0] += 9e-6
        return dataclasses.replace(found, name="a reference that is off", vectors=vectors)

    monkeypatch.setattr(float32, "find_reference", shifted)
    parent = tmp_path / "parent"
    with pytest.raises(ParityError) as caught:
        export(model, parent / "bundle")
    message = str(caught.value)
    assert "the vectors of model (onnx/model_cpu.onnx) differ from a reference that is off by up to 2.0e-02" in message
    assert "the tolerance is 1e-05" in message
    listed = re.findall(r"^  (\S+) to the reference, (\S+) by batch: texts\[(\d+)\] = (.*)$", message, re.MULTILINE)
    assert [(error, index) for error, _, index, _ in listed[:2]] == [("2.0e-02", "7"), ("1.0e-02", "4")]
    assert listed[1][3] == repr(parity_texts(48)[4])
    assert len(listed) == 5
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("damage", ["nan", "batch"])
def test_parity_that_is_not_a_number_is_no_parity(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sentence_transformers: None, damage: str
) -> None:
    def broken(*arguments: Any) -> Reference:
        found = find_reference(*arguments)
        vectors = found.vectors.copy()
        vectors[2] = np.nan if damage == "nan" else 1e6
        return dataclasses.replace(found, vectors=vectors)

    monkeypatch.setattr(float32, "find_reference", broken)
    with pytest.raises(ParityError):
        export(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.subprocess
def test_same_input_same_bytes(model: Path, tmp_path: Path) -> None:
    """In another process, with another seed for hashes, from another folder."""
    first = export(model, tmp_path / "first")
    second = tmp_path / "second"
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    shutil.copytree(model, elsewhere / "model")
    result = run("export", elsewhere / "model", "-o", second, PYTHONHASHSEED="7", TZ="Asia/Kolkata", LC_ALL="C")
    assert result.returncode == 0, result.stderr
    assert contents(first) == contents(second)


def change_weight(model: Path) -> None:
    def nudge(tensors: dict[str, Any]) -> None:
        tensors["encoder.layer.1.output.dense.weight"][0, 0] += 1e-3

    edit_weights(model, nudge)


def change_vocabulary(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_bytes())
    vocabulary = content["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    write_json(model / "tokenizer.json", content)


def drop_normalize(model: Path) -> None:
    write_json(model / "modules.json", json.loads((model / "modules.json").read_bytes())[:2])


CHANGES: dict[str, Callable[[Path], Any]] = {
    "weight": change_weight,
    "vocabulary": change_vocabulary,
    "lower case": lambda model: edit_json(model / "tokenizer_config.json", do_lower_case=False),
    "truncation side": lambda model: edit_json(model / "tokenizer_config.json", truncation_side="left"),
    "pooling": lambda model: edit_json(model / "1_Pooling" / "config.json", pooling_mode="cls"),
    "normalization": drop_normalize,
    "max length": lambda model: edit_json(model / "sentence_bert_config.json", max_seq_length=47),
}
NO_CHANGES: dict[str, Callable[[Path], Any]] = {
    "prompts": lambda model: edit_json(model / "config_sentence_transformers.json", prompts={"a": "b"}),
    "truncation": lambda model: edit_json(model / "config_sentence_transformers.json", truncate_dim=3),
    "shards": shard,
    "training": lambda model: edit_json(model / "config.json", hidden_dropout_prob=0.9, transformers_version="4.0"),
    "old names": lambda model: write_json(
        model / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fingerprint_is_of_all_that_changes_vectors(model: Path, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    CHANGES[name](model)
    assert read_bundle(export(model, tmp_path / "bundle")).fingerprint != read_bundle(tiny_bundle).fingerprint


@pytest.mark.parametrize("name", NO_CHANGES)
def test_fingerprint_is_of_nothing_else(model: Path, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    NO_CHANGES[name](model)
    assert read_bundle(export(model, tmp_path / "bundle")).fingerprint == read_bundle(tiny_bundle).fingerprint


@pytest.mark.parametrize(
    ("architecture", "own", "of_tokenizer", "positions", "expected"),
    [
        ("bert", 20, 64, 64, 20),
        ("bert", 60, 30, 64, 60),
        ("bert", None, 30, 64, 30),
        ("bert", None, 512, 64, 64),
        ("bert", None, 1e30, 64, 64),
        ("bert", None, ..., 40, 40),
        ("mpnet", None, 512, 64, 62),
        ("mpnet", None, 20, 64, 20),
        ("mpnet", 50, 512, 64, 50),
        ("mpnet", 62, 512, 64, 62),
    ],
)
def test_max_seq_length(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    architecture: str,
    own: int | None,
    of_tokenizer: Any,
    positions: int,
    expected: int,
) -> None:
    model = make_model(tmp_path / "model", architecture, max_seq_length=own, max_position_embeddings=positions)
    edit_json(model / "tokenizer_config.json", model_max_length=of_tokenizer)
    with caplog.at_level(logging.WARNING, "embedrt.export"):
        embedder = Embedder(export(model, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].max_seq_length == expected
    assert embedder.token_count("a " * 200) == expected
    assert not caplog.records


@pytest.mark.parametrize(("architecture", "expected"), [("bert", 64), ("mpnet", 62)])
def test_max_seq_length_beyond_the_positions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, architecture: str, expected: int
) -> None:
    model = make_model(tmp_path / "model", architecture, max_seq_length=128)
    with caplog.at_level(logging.WARNING, "embedrt.export"):
        manifest = read_bundle(export(model, tmp_path / "bundle"))
    assert manifest.routes["default"].max_seq_length == expected
    assert f"max_seq_length 128 exceeds the {expected} positions" in caplog.text


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my model", "my-model"),
        ("Ünï 千 model", "n-model"),
        ("千里", "model"),
        (".hidden", "hidden"),
        ("org--model", "org-model"),
        ("a" * 90, "a" * 90),
    ],
)
def test_folder_names(tmp_path: Path, folder: str, name: str) -> None:
    """Spaces and other scripts work as a source, as a target, and as a name in the store."""
    model = make_model(tmp_path / folder)
    assert export(model) == stored_path(name)
    bundle = export(model, tmp_path / "bundles of Åse" / f"{folder}.bundle")
    assert read_bundle(bundle).name == name
    assert Embedder(name).encode("a").tolist() == Embedder(bundle).encode("a").tolist()


def test_store_and_name(model: Path, own_store: Path, tmp_path: Path) -> None:
    assert export(model) == own_store / "bundles" / "model"
    assert export(model, name="org/other") == own_store / "bundles" / "org--other"
    assert set(stored()) == {"model", "org/other"}
    assert Embedder("org/other").manifest.name == "org/other"
    assert read_bundle(export(model, tmp_path / "bundle", name="a name of any kind")).name == "a name of any kind"
    with pytest.raises(ValueError, match=r"'\.\./evil' is not a model name"):
        export(model, name="../evil")
    assert not (own_store / "evil").exists()


def test_strings_relative_paths_and_home(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_bundle(export("model", "one/two/bundle")).name == "model"
    assert export("~/model", "~/three") == tmp_path / "three"
    assert Embedder("one/two/bundle").manifest.name == "model"


def test_revision_of_a_folder(model: Path) -> None:
    with pytest.raises(ValueError, match="is not on the hub and has no revisions"):
        export(model, revision="main")


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "a/b/c", "~/nowhere-at-all", "a\\b"])
def test_no_such_folder(source: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        export(source)
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        export(Path("not-here"))


def unchanged(folder: Path) -> Callable[[], bool]:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    return lambda: all((path.stat().st_mtime_ns, path.read_bytes()) == state for path, state in before.items())


def test_existing_target_of_the_same_model(model: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    bundle = export(model, parent / "bundle")
    is_same = unchanged(bundle)
    assert export(model, parent / "bundle") == bundle
    assert is_same()
    assert [path.name for path in parent.iterdir()] == ["bundle"]


def test_existing_target_of_another_model(model: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    bundle = export(make_model(tmp_path / "other", seed=9), parent / "bundle")
    is_same = unchanged(bundle)
    with pytest.raises(BundleError, match="exists and is not an intact bundle of the same model"):
        export(model, bundle)
    assert is_same()
    assert [path.name for path in parent.iterdir()] == ["bundle"]
    export(model, bundle, overwrite=True)
    assert read_bundle(bundle).name == "model"
    assert [path.name for path in parent.iterdir()] == ["bundle"]


def test_existing_target_that_is_damaged(model: Path, tmp_path: Path) -> None:
    bundle = export(model, tmp_path / "bundle")
    (bundle / "onnx" / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="exists and is not an intact bundle"):
        export(model, bundle)
    assert verify(Embedder(export(model, bundle, overwrite=True)))


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_existing_target_that_is_no_bundle(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Said before the work."""
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
    if kind == "folder":
        (target / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    monkeypatch.delattr(pipeline, "read_repo")
    with pytest.raises(BundleError, match="exists and is not a bundle; choose another folder"):
        export(model, target)
    assert contents(tmp_path) == before


def test_no_space_left(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = GraphBuilder.weight

    def full(graph: GraphBuilder, name: str, values: Any) -> str:
        if len(written) == 10:
            raise OSError(errno.ENOSPC, "No space left on device", "model.onnx_data")
        written.append(name)
        return write(graph, name, values)

    monkeypatch.setattr(GraphBuilder, "weight", full)
    message = r"bundle: writing more than \d+ bytes failed: No space left on device; nothing was left there$"
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "parent" / "bundle")
    assert list((tmp_path / "parent").iterdir()) == []


def test_target_that_cannot_be_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the work; a process of root may write anywhere, so the refusal is staged."""

    def refuse(**arguments: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(arguments["dir"]))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.delattr(pipeline, "_write_bundle")
    with pytest.raises(PermissionError, match=r"Permission denied: '.*parent'"):
        export(model, tmp_path / "parent" / "bundle")


@pytest.mark.subprocess
def test_target_below_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run("export", model, "-o", tmp_path / "file" / "bundle")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"(embedrt: .*\n)*embedrt: \[Errno \d+\] .*\n", result.stderr)
    assert (tmp_path / "file").read_text() == "mine"


def make_package(root: Path, name: str, *models: str, body: str = "raise RuntimeError('imported')\n") -> Path:
    """An importable package with model folders."""
    package = root / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(body)
    for model in models:
        make_model(package / model)
    return package


def test_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, "carries_a_model", "data/model")
    info = tmp_path / "Carries.A.Model-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Carries.A.Model\nVersion: 2.5\n")
    (info / "top_level.txt").write_text("carries_a_model\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    bundle = export("package:carries_a_model")

    assert bundle == stored_path("carries_a_model")
    manifest = read_bundle(bundle)
    source = {"kind": "package", "id": "Carries.A.Model", "revision": "2.5"}
    assert dataclasses.asdict(manifest.source) == source
    assert "carries_a_model" not in sys.modules
    with pytest.raises(ValueError, match="is not on the hub"):
        export("package:carries_a_model", revision="main")


def test_package_without_metadata_and_with_a_subfolder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path, "loose_model")
    make_model(package / "model" / "0_Transformer")
    for name in ("modules.json", "1_Pooling", "config_sentence_transformers.json"):
        (package / "model" / "0_Transformer" / name).rename(package / "model" / name)
    modules = package / "model" / "modules.json"
    modules.write_text(modules.read_text().replace('"path": ""', '"path": "0_Transformer"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    manifest = read_bundle(export("package:loose_model"))
    assert dataclasses.asdict(manifest.source) == {"kind": "package", "id": "loose_model", "revision": None}


def test_packages_without_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, "has_none")
    make_package(tmp_path, "has_two", "a", "b")
    make_package(tmp_path, "has_half", "a")
    (tmp_path / "has_half" / "a" / "config.json").unlink()
    (tmp_path / "is_module.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"package 'has_none': expected one folder with .*, found none"):
        export("package:has_none")
    with pytest.raises(ModelNotFoundError, match=r"found .*has_two/a, .*has_two/b"):
        export("package:has_two")
    with pytest.raises(ModelNotFoundError, match=r"'has_half': .* found none"):
        export("package:has_half")
    for name in ("is_module", "no_such_package", "has_two.a", "os.path", "", "../has_two", "has two"):
        with pytest.raises(ModelNotFoundError, match=f"^package '{name}' is not installed"):
            export(f"package:{name}")
    assert not {"has_none", "has_two", "has_half", "is_module"} & set(sys.modules)


@pytest.mark.subprocess
def test_command(model: Path, tmp_path: Path) -> None:
    result = run("export", model, "-o", tmp_path / "bundle", "--name", "x/y")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == str(tmp_path / "bundle")
    assert lines[1].startswith("parity float32: onnx/model_cpu.onnx: ")
    assert read_bundle(tmp_path / "bundle").name == "x/y"
    assert f"embedrt: done: {tmp_path / 'bundle'}" in result.stderr.splitlines()

    (model / "config.json").unlink()
    result = run("export", model, "-o", tmp_path / "other")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("embedrt: config.json: missing in model")
    assert "Traceback" not in result.stderr


@pytest.mark.subprocess
def test_needs_the_extra(model: Path, tmp_path: Path) -> None:
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text("import sys\nsys.modules['onnx'] = None\n")
    result = run("export", model, PYTHONPATH=str(tmp_path / "block"))
    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install 'embedrt[export]'" in result.stderr
    assert "Traceback" not in result.stderr


EXPORT = [sys.executable, "-m", "embedrt", "export"]


def absent_or_sound(target: Path) -> bool:
    """Whether there is a bundle; a damaged one fails."""
    if not target.exists():
        return False
    assert verify(Embedder(target))
    return True


@pytest.mark.slow
@pytest.mark.subprocess
def test_killed_at_any_moment(model: Path, tmp_path: Path) -> None:
    """Twenty moments, spread over the whole run; a slow machine only shifts them."""
    parent = tmp_path / "parent"
    start = time.monotonic()
    subprocess.run([*EXPORT, model, "-o", parent / "whole"], check=True, capture_output=True, timeout=TIMEOUT)
    duration = time.monotonic() - start
    assert absent_or_sound(parent / "whole")
    moments = random.Random(20)
    outcomes = []
    for i in range(20):
        target = parent / f"bundle-{i}"
        with subprocess.Popen([*EXPORT, model, "-o", target], stderr=subprocess.DEVNULL) as process:
            try:
                process.wait((i + moments.random()) / 20 * duration)
            except subprocess.TimeoutExpired:
                process.kill()
            outcomes.append(process.wait(TIMEOUT))
        assert absent_or_sound(target) or outcomes[-1] != 0
    assert -signal.SIGKILL in outcomes
    assert_recovers(model, parent)


KILLED_AT_EVENT = """
import os, signal, sys
from embedrt_export import export
source, target, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
parent, seen = os.path.dirname(target), []
def watch(event, arguments):
    if event.split(".")[0] in {"open", "os", "shutil", "tempfile"} and any(parent in str(a) for a in arguments):
        seen.append(event)
        if len(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
export(source, target)
print(" ".join(seen))
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_killed_before_any_change_to_the_disk(model: Path, tmp_path: Path) -> None:
    """Before each of some events that touch the target's folder, among them the last ones and the rename itself."""

    def attempt(target: Path, last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED_AT_EVENT, str(model), str(target), str(last)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    whole = attempt(tmp_path / "whole" / "bundle", 0)
    assert whole.returncode == 0, whole.stderr
    events = whole.stdout.split()
    rename = max(i for i, event in enumerate(events) if event == "os.rename") + 1
    assert events.count("open") > 30
    chosen = {*random.Random(8).sample(range(2, rename), 4), rename - 1, rename, rename + 1}
    for last in sorted(chosen):
        target = tmp_path / str(last) / "bundle"  # clearing what others left is an event too
        assert attempt(target, last).returncode == -signal.SIGKILL
        assert absent_or_sound(target) == (last > rename)
        assert list(target.parent.glob(".unfinished-*"))
    for last in (min(chosen), rename, rename + 1):
        assert_recovers(model, tmp_path / str(last))


def assert_recovers(model: Path, parent: Path) -> None:
    """A later export succeeds, and removes what killed ones left."""
    export(model, parent / "after")
    assert not list(parent.glob(".unfinished-*"))
    assert all(absent_or_sound(path) for path in parent.iterdir())


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(("seeds", "refused"), [([0, 0, 0, 0], 0), ([0, 1], 1)])
def test_exports_to_one_target_at_once(tmp_path: Path, seeds: list[int], refused: int) -> None:
    """The same model four times, or two models: one comes first, and who finds another model there says so."""
    parent = tmp_path / "parent"
    sources = [make_model(tmp_path / str(i) / "model", seed=seed) for i, seed in enumerate(seeds)]
    started = [
        subprocess.Popen(
            [*EXPORT, source, "-o", parent / "bundle"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for source in sources
    ]
    finished = [(process.communicate(timeout=TIMEOUT)[1], process.returncode) for process in started]
    failed = [errors for errors, status in finished if status != 0]
    assert len(failed) == refused
    for errors in failed:
        assert "exists and is not an intact bundle of the same model" in errors
        assert "Traceback" not in errors
    assert [path.name for path in parent.iterdir()] == ["bundle"]
    assert verify(Embedder(parent / "bundle"))


def test_unsupported_model_says_so_in_one_line(model: Path, tmp_path: Path) -> None:
    edit_json(model / "config.json", is_decoder=True)
    with pytest.raises(
        UnsupportedModelError, match=r"^config\.json\.is_decoder: expected one of False, got bool 'True'"
    ):
        export(model, tmp_path / "bundle")
    edit_json(model / "config.json", is_decoder=False, position_embedding_type="relative_key")
    with pytest.raises(
        UnsupportedModelError, match=r"position_embedding_type: expected one of 'absolute', got str 'relative_key'"
    ):
        export(model, tmp_path / "bundle")
    edit_json(model / "config.json", position_embedding_type="absolute", add_cross_attention=True)
    with pytest.raises(UnsupportedModelError, match="add_cross_attention"):
        export(model, tmp_path / "bundle")
    edit_json(model / "config.json", add_cross_attention=False, hidden_act="xielu")
    with pytest.raises(UnsupportedModelError, match="hidden_act 'xielu' is not supported; supported: gelu, "):
        export(model, tmp_path / "bundle")
    edit_json(model / "config.json", hidden_act={"a": 1})
    with pytest.raises(ExportError, match="hidden_act: expected a string"):
        export(model, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


BAD_SIZES: dict[str, tuple[str, dict[str, Any], str]] = {
    "heads do not divide": ("bert", {"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_h"),
    "no heads": ("bert", {"num_attention_heads": 0}, "num_attention_heads: expected a positive integer, got 0"),
    "no layers": ("bert", {"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer, got 0"),
    "minus one layer": ("mpnet", {"num_hidden_layers": -1}, "num_hidden_layers: expected a positive integer, got -1"),
    "no types": ("bert", {"type_vocab_size": 0}, "type_vocab_size: expected a positive integer, got 0"),
    "few buckets": ("mpnet", {"relative_attention_num_buckets": 31}, "relative_attention_num_buckets 31 is less than"),
    "only padding": ("mpnet", {"max_position_embeddings": 2}, "max_position_embeddings 2 leaves no position for a t"),
}


@pytest.mark.parametrize("name", BAD_SIZES)
def test_sizes_that_no_model_has(tmp_path: Path, name: str) -> None:
    architecture, sizes, message = BAD_SIZES[name]
    model = make_model(tmp_path / "model", architecture)
    edit_json(model / "config.json", **sizes)
    with pytest.raises(ExportError, match=rf"^config\.json.*{message}"):
        export(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("own", "of_tokenizer"), [(1, 64), (2, 64), (None, 1), (None, 2)])
def test_max_seq_length_without_room(model: Path, tmp_path: Path, own: int | None, of_tokenizer: int) -> None:
    """With [CLS] and [SEP]; a limit below them makes the tokenizers library cut off nothing at all."""
    edit_json(model / "sentence_bert_config.json", max_seq_length=own)
    edit_json(model / "tokenizer_config.json", model_max_length=of_tokenizer)
    with pytest.raises(ExportError, match=rf"^max_seq_length {own or of_tokenizer} leaves no room .* 2 special tokens"):
        export(model, tmp_path / "bundle")
    edit_json(model / "sentence_bert_config.json", max_seq_length=3)
    assert Embedder(export(model, tmp_path / "bundle")).token_count("a b c") == 3


def test_a_limit_beyond_every_text() -> None:
    """Of a model without positions; the manifest would be refused."""
    how = Tokenization(pad_id=0, padding_side="right", token_type_ids=False, pooling_mask=False, embedding_rows=9)
    tokenizer = BuiltTokenizer("", None, 2, how)
    assert max_seq_length(MOST_TOKENS, tokenizer, None, None) == MOST_TOKENS
    for wanted, stated in ((10**30, None), (None, 2**31)):
        with pytest.raises(ExportError, match=r"^max_seq_length \d+: expected at most 2147483647; correct it"):
            max_seq_length(wanted, tokenizer, stated, None)
    assert position_limit(512, 10**30, None) == MOST_TOKENS


@pytest.mark.parametrize(("name", "message"), [("a\ud800", "name: lone surrogate"), (5, "name: expected str")])
def test_a_name_that_is_no_text(model: Path, tmp_path: Path, name: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        export(model, tmp_path / "bundle", name=name)
    assert not (tmp_path / "bundle").exists()


def test_positions_without_room(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", max_position_embeddings=2)
    with pytest.raises(ExportError, match="max_seq_length 2 leaves no room"):
        export(model, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("bert", {"hidden_act": "relu"}),
        ("bert", {"layer_norm_eps": 1e-5}),
        ("bert", {"num_attention_heads": 2}),
        ("mpnet", {"hidden_act": "gelu_new"}),
    ],
)
def test_fingerprint_is_of_the_architecture_too(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    """Settings of config.json that leave the weights alone and change every vector."""
    model = make_model(tmp_path / "model", architecture)
    before = Embedder(export(model, tmp_path / "before"))
    edit_json(model / "config.json", **changes)
    after = Embedder(export(model, tmp_path / "after"))
    assert np.abs(before.encode("the cat") - after.encode("the cat")).max() > 1e-6
    assert before.manifest.fingerprint != after.manifest.fingerprint


def test_fingerprint_is_of_what_defaults_mean(model: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    edit_json(model / "config.json", layer_norm_eps=..., type_vocab_size=..., hidden_act=None)
    assert read_bundle(export(model, tmp_path / "bundle")).fingerprint == read_bundle(tiny_bundle).fingerprint


@pytest.mark.parametrize("kind", ["folder", "file", "link to a folder"])
def test_overwrite_replaces_bundles_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A slip of the hand must not delete somebody's folder."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("mine")
    target = {"folder": home, "file": home / "thesis.txt", "link to a folder": tmp_path / "link"}[kind]
    if kind == "link to a folder":
        target.symlink_to(home)
    monkeypatch.delattr(pipeline, "read_repo")
    with pytest.raises(BundleError, match="exists and is not a bundle; choose another folder"):
        export(model, target, overwrite=True)
    assert (home / "thesis.txt").read_text() == "mine"


def test_overwrite_an_empty_folder_and_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert verify(Embedder(export(model, tmp_path / "empty", overwrite=True)))
    assert verify(Embedder(export(model, tmp_path / "absent", overwrite=True)))


def test_overwrite_in_the_store(model: Path, own_store: Path) -> None:
    bundle = export(make_model(model.parent / "other", seed=2), name="model")
    before = read_bundle(bundle).fingerprint
    assert export(model, overwrite=True) == bundle
    assert read_bundle(bundle).fingerprint != before
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]
    assert {path.name for path in own_store.iterdir()} <= {"bundles", VERIFIED}


def test_a_lone_surrogate_in_a_config(model: Path, tmp_path: Path) -> None:
    """JSON can spell half of a character; no manifest can hold it."""
    edit_json(model / "config_sentence_transformers.json", prompts={"query": "\ud83d"})
    with pytest.raises(
        ExportError,
        match=r"^config_sentence_transformers\.json\.prompts\.query: expected valid Unicode, got a lone surrogate in",
    ):
        export(model, tmp_path / "bundle")


def test_a_bundle_that_could_not_be_read_is_not_published(model: Path, tmp_path: Path) -> None:
    """A folder that no module names, with a name that not every system can have."""
    write_json(model / "9_what?" / "config.json", {})
    with pytest.raises(BundleError, match=r"files: '9_what\?/config\.json' is not a plain path inside the bundle"):
        export(model, tmp_path / "parent" / "bundle")
    assert list((tmp_path / "parent").iterdir()) == []

"""Classification heads of every architecture against golden logits of sentence-transformers."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from embedrt import tune
from embedrt.bundle import reports
from embedrt.bundle.manifest import Manifest, read_manifest
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.reports import ParityReport, RankReport
from embedrt.engine import cpu
from embedrt.engine.placement import place
from embedrt.errors import BundleError, ExportError, QualityError, UnsupportedModelError
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_values, graph_values_in_one_batch
from embedrt.types import LOGITS
from embedrt.verify.parity import verify_route
from embedrt_export import export
from embedrt_export.dtypes import float32
from embedrt_export.dtypes.int8 import quantize
from embedrt_export.heads.classification import CLASSIFIERS
from tests.kit.bundles import change, copy_bundle
from tests.kit.narrow import write_narrow
from tests.kit.scoring_heads import (
    CHAINS,
    REFERENCE,
    HeadCase,
    head_cases,
    pairs_for,
    write_chain_repo,
    write_head_repo,
)

TOLERANCE = 1e-5
HEADS = head_cases()
RECORD: dict[str, Any] = json.loads((REFERENCE / "heads.json").read_bytes())
GOLDEN = np.load(REFERENCE / "heads.npz", allow_pickle=False)


@pytest.fixture
def brief_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of an export has a few pairs, where the test itself compares all."""
    monkeypatch.setattr(float32, "parity_items", lambda *_: pairs_for(HeadCase())[4:40:12])


def head_repo(name: str, folder: Path) -> Path:
    """A model folder of a case."""
    return write_head_repo(folder, HEADS[name], RECORD["tensors"][name])


def runner_of(bundle: Path, dtype: str = "float32") -> tuple[Manifest, Runner]:
    manifest = read_manifest(bundle)
    route = manifest.routes["default"]
    return manifest, Runner(BundleFiles(bundle), route, manifest, place(bundle, route, cpu.DEVICE, dtype))


def as_golden(bundle: Path, name: str, case: HeadCase) -> tuple[Manifest, Runner]:
    """Compare the logits of all pairs with the golden ones: planned, alone, and in batches with much padding."""
    manifest, runner = runner_of(bundle)
    pairs, expected = pairs_for(case), GOLDEN[name]
    planned = graph_values(runner, pairs)
    alone = np.concatenate([graph_values(runner, [pair]) for pair in pairs])
    padded = np.concatenate([graph_values_in_one_batch(runner, pairs[i::7]) for i in range(7)])
    order = np.concatenate([np.arange(len(pairs))[i::7] for i in range(7)])
    for found in (planned, alone, padded[np.argsort(order)]):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE
    assert len(np.unique(expected.round(3), axis=0)) > len(pairs) // 3, "these logits tell pairs apart"
    return manifest, runner


@pytest.mark.parametrize("name", HEADS)
def test_golden_logits(name: str, tmp_path: Path, brief_proof: None) -> None:
    case = HEADS[name]
    bundle = export(head_repo(name, tmp_path / "model"), tmp_path / "bundle")
    manifest, runner = as_golden(bundle, name, case)
    route = manifest.routes["default"]
    assert (manifest.task, manifest.dim) == ("score", case.labels)
    assert list(route.outputs) == [LOGITS]
    assert route.outputs[LOGITS].kind == "scores"
    assert route.max_seq_length == case.max_length
    types = runner.tokenize(["a"]).type_ids
    assert (types is not None) == route.tokenization.token_type_ids
    if route.tokenization.token_type_ids:
        assert case.token_types
    graph = onnx.load(bundle / route.variants[-1].file, load_external_data=False).graph
    picks_one = not re.search("mean|late", name)
    assert picks_one == any(node.name.startswith("early_rows") for node in graph.node), "the last layer has few rows"


@pytest.mark.parametrize("name", CHAINS)
def test_golden_logits_of_chains(name: str, tmp_path: Path, brief_proof: None) -> None:
    chain = CHAINS[name]
    source = write_chain_repo(tmp_path / "model", chain, RECORD["tensors"][chain.base])
    manifest, _ = as_golden(export(source, tmp_path / "bundle"), name, HEADS[chain.base])
    assert (manifest.task, manifest.dim) == ("score", chain.labels)
    kinds = [module.type for module in manifest.routes["default"].modules]
    head = ["SequenceClassification"] if chain.transformer_task == "sequence-classification" else []
    assert kinds == ["Transformer", *head, *(kind for kind, _ in chain.modules)]


def test_golden_files_are_those_that_were_made() -> None:
    assert hashlib.sha256((REFERENCE / "heads.npz").read_bytes()).hexdigest() == RECORD["logits_sha256"]
    assert list(RECORD["tensors"]) == list(HEADS)
    assert set(GOLDEN.files) == {*HEADS, *CHAINS}


def test_every_architecture_with_a_head_has_cases() -> None:
    assert {case.family for case in HEADS.values()} == set(CLASSIFIERS)


def test_the_proof_is_over_pairs(tmp_path: Path) -> None:
    bundle = export(head_repo("bert: three labels", tmp_path / "model"), tmp_path / "bundle")
    route = read_manifest(bundle).routes["default"]
    pairs = json.loads((bundle / route.parity_texts).read_bytes())
    assert [tuple(pair) for pair in pairs] == pairs_for(HEADS["bert: three labels"])
    assert np.load(bundle / route.parity_vectors).shape == (len(pairs), 3)
    for variant in route.variants:
        assert isinstance(variant.proof, ParityReport)
        assert variant.proof.texts == len(pairs)
        assert variant.proof.max_tokens == 48
        assert variant.proof.max_abs_error <= variant.proof.tolerance == TOLERANCE


@pytest.mark.parametrize("name", [name for name in HEADS if not re.search("three labels|long", name)])
def test_the_form_for_cuda_computes_the_golden_logits(name: str, tmp_path: Path) -> None:
    narrow = write_narrow(head_repo(name, tmp_path / "model"), tmp_path / "narrow", "float32")
    assert narrow.written.layout == ("padded" if name.startswith("deberta-v2") else "packed")
    pairs, expected = pairs_for(HEADS[name]), GOLDEN[name]
    assert np.abs(narrow.vectors(pairs) - expected).max() <= TOLERANCE
    for at in (0, 30, len(pairs) - 1):
        assert np.abs(narrow.vectors([pairs[at]])[0] - expected[at]).max() <= TOLERANCE


def test_narrow_dtypes(tmp_path: Path, brief_proof: None) -> None:
    source = head_repo("bert: one label", tmp_path / "model")
    bundle = export(source, tmp_path / "bundle", dtype=("float32", "float16"))
    (variant,) = read_manifest(bundle).routes["default"].variants_in("float16")
    assert variant.layout == "packed"
    report = variant.proof
    assert isinstance(report, RankReport)
    assert report.is_good
    assert 0.99 <= report.mean_agreement <= 1
    assert 0 < report.max_score_error < 0.01
    assert report.parity_max_abs_error < 0.01


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in float32 and int8, of a model that is twice as wide as the other ones."""
    folder = tmp_path_factory.mktemp("int8")
    wider = {32: 64, 64: 128}
    case = HEADS["bert: one label"]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 128}
    plain = RECORD["tensors"]["bert: one label"]
    shapes = {name: [wider.get(size, size) for size in shape] for name, shape in plain.items()}
    source = write_head_repo(folder / "model", dataclasses.replace(case, config={**case.config, **sizes}), shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float32, "parity_items", lambda *_: pairs_for(HeadCase())[4:40:12])
        return export(source, folder / "bundle", dtype=("float32", "int8"))


class TestInt8:
    def test_the_report_is_on_the_order_of_scores(self, int8_bundle: Path) -> None:
        report = rank_report(int8_bundle)
        assert report.method.startswith("8 of 8 linear layers"), "in float32: those of the picked rows"
        assert report.is_good
        assert report.texts > 300
        assert 0.9 <= report.mean_agreement < 1
        assert 0.9 <= report.top_agreement <= 1
        assert 0 < report.mean_score_error <= report.max_score_error < 0.05
        assert 0 < report.parity_max_abs_error < 0.1

    def test_the_scores_are_those_that_were_measured(self, int8_bundle: Path) -> None:
        _, exact = runner_of(int8_bundle)
        _, lossy = runner_of(int8_bundle, "int8")
        pairs = pairs_for(HeadCase())
        errors = np.abs(graph_values(exact, pairs) - graph_values(lossy, pairs))
        assert 0 < errors.max() < 0.1

    def test_another_machine_finds_what_the_export_found(self, int8_bundle: Path) -> None:
        _, runner = runner_of(int8_bundle, "int8")
        found, made = verify_route(runner), rank_report(int8_bundle)
        assert isinstance(found, RankReport)
        assert found.parity_max_abs_error == pytest.approx(made.parity_max_abs_error, rel=0.5)
        assert found.mean_agreement == made.mean_agreement

    def test_worse_scores_than_at_export_are_an_error(self, int8_bundle: Path, tmp_path: Path) -> None:
        folder = copy_bundle(int8_bundle, tmp_path / "bundle")

        def better(raw: Any) -> None:
            for variant in raw["routes"]["default"]["variants"]:
                if variant["dtype"] == "int8":
                    variant["proof"]["parity_max_abs_error"] = 0.0

        change(folder, better)
        with pytest.raises(QualityError, match=r"scores of .* are worse here than where .*use dtype='float32'"):
            verify_route(runner_of(folder, "int8")[1])

    def test_below_the_bounds_there_is_no_bundle(
        self, int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(reports.RANKS_ALLOWED, "int8", (0.99999, 0.02))
        monkeypatch.setattr(float32, "parity_items", lambda *_: pairs_for(HeadCase())[4:40:12])
        monkeypatch.setattr(quantize, "_KEPT_SHARES", (0.0,))
        with pytest.raises(QualityError, match=r"rank correlation with float32 is 0\.9.*at least 0\.99999.*--calib"):
            export(int8_bundle.with_name("model"), tmp_path / "bundle", dtype="int8")

    def test_it_can_be_tuned(self, int8_bundle: Path, tmp_path: Path) -> None:
        setting = tune(copy_bundle(int8_bundle, tmp_path / "bundle"), seconds=0.1).setting("int8", "cpu")
        assert setting is not None
        assert setting.mean_cosine == 1, "the cosine of single numbers says nothing"

    @pytest.mark.parametrize(("field", "number"), [("mean_agreement", 1.5), ("max_score_error", -0.1)])
    def test_numbers_out_of_range(self, field: str, number: float, int8_bundle: Path, tmp_path: Path) -> None:
        folder = copy_bundle(int8_bundle, tmp_path / "bundle")
        change(folder, lambda raw: raw["routes"]["default"]["variants"][-1]["proof"].update({field: number}))
        with pytest.raises(BundleError, match=rf"proof\.{field}: expected"):
            read_manifest(folder)


def rank_report(bundle: Path) -> RankReport:
    variant, _ = read_manifest(bundle).routes["default"].variants_in("int8")
    assert isinstance(variant.proof, RankReport)
    return variant.proof


def with_config(source: Path, **keys: Any) -> Path:
    """The model with other keys in its config.json; None removes a key."""
    config = {**json.loads((source / "config.json").read_bytes()), **keys}
    (source / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return source


def with_weights(source: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    weights = load_file(source / "model.safetensors")
    change(weights)
    save_file(weights, source / "model.safetensors")
    return source


class TestRefusals:
    def test_an_unknown_pooling(self, tmp_path: Path) -> None:
        source = with_config(head_repo("modernbert: cls", tmp_path / "model"), classifier_pooling="max")
        with pytest.raises(UnsupportedModelError, match=r"classifier_pooling 'max' is not supported; supported: cls"):
            export(source, tmp_path / "bundle")

    def test_an_architecture_without_such_a_head(self, tmp_path: Path) -> None:
        source = with_config(head_repo("bert: one label", tmp_path / "model"), model_type="bert-generation")
        with_weights(source, lambda weights: weights.pop("bert.embeddings.token_type_embeddings.weight"))
        with pytest.raises(UnsupportedModelError, match=r"not supported for the architecture 'bert-generation'; supp"):
            export(source, tmp_path / "bundle")

    def test_another_number_of_labels(self, tmp_path: Path) -> None:
        source = with_config(head_repo("bert: one label", tmp_path / "model"), id2label=None)
        with pytest.raises(ExportError, match=r"classifier.*has shape \(1, 32\), config\.json requires \(2, 32\)"):
            export(source, tmp_path / "bundle")

    def test_a_model_without_a_head(self, tmp_path: Path) -> None:
        source = with_weights(head_repo("bert: one label", tmp_path / "model"), lambda w: w.pop("classifier.weight"))
        with pytest.raises(ExportError, match=r"tensor 'classifier\.weight' is missing"):
            export(source, tmp_path / "bundle")

    def test_a_head_with_more_layers(self, tmp_path: Path) -> None:
        source = with_weights(
            head_repo("bert: one label", tmp_path / "model"),
            lambda weights: weights.update({"classifier.dense.weight": np.zeros((32, 32), np.float32)}),
        )
        with pytest.raises(UnsupportedModelError, match=r"has no 'classifier\.dense\.weight'"):
            export(source, tmp_path / "bundle")

    @pytest.mark.parametrize("labels", [0, -1])
    def test_no_labels(self, labels: int, tmp_path: Path) -> None:
        source = with_config(head_repo("bert: one label", tmp_path / "model"), id2label=None, num_labels=labels)
        with pytest.raises(UnsupportedModelError, match=r"num_labels: expected 1 to"):
            export(source, tmp_path / "bundle")

"""Multi-vector models in other dtypes, in worker processes, and what their folders may not have."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedrt import BundleError, Embedder, MultiVectorEncoder, QualityReport, verify
from embedrt.bundle.manifest import Variant, read_manifest, write_manifest
from embedrt.engine.session import plain_session
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.run.batches import make_batch
from embedrt_export import export
from embedrt_export.dtypes.float16.on_cpu import on_cpu
from embedrt_export.graph.data_file import DataFile
from tests.kit import late_models
from tests.kit.chains import Entry, draw, pooling, write_chain
from tests.kit.late_calls import TEXTS
from tests.kit.late_models import NORMALIZE, dense, mask, set_transformer, write_top
from tests.kit.models import make_model, write_json
from tests.kit.torch_files import save_state_dict


def variants(bundle: Path) -> tuple[Variant, ...]:
    return read_manifest(bundle).routes["default"].variants


def last_variant(bundle: Path) -> Variant:
    return variants(bundle)[-1]


@pytest.mark.parametrize(("name", "layout"), [("pylate_attending", "packed"), ("fixed", "padded")])
def test_float16(tmp_path: Path, name: str, layout: str) -> None:
    """Tokens of a packed text attend to each other, so that unattended ones of an expansion need a padded graph."""
    source = late_models.MODELS[name](tmp_path / "model")
    variant = last_variant(export(source, tmp_path / "bundle", dtype="float16", reference="onnx"))
    assert variant.layout == layout
    assert isinstance(variant.proof, QualityReport)
    assert variant.proof.min_cosine > 0.9999


def test_three_outputs_in_float16(tmp_path: Path) -> None:
    source = late_models.three_outputs(tmp_path / "model")
    bundle = export(source, tmp_path / "bundle", dtype=["float32", "float16"], reference="onnx")
    variant = last_variant(bundle)
    with DataFile(tmp_path / "cpu.onnx_data") as data:
        names = on_cpu(bundle / variant.file, tmp_path / "cpu.onnx", data, "float16")
    assert variant.packing is not None
    packing = dataclasses.replace(variant.packing, inputs=tuple(names), scratch=None)
    with Embedder(bundle) as model:
        runner = model.runners["default"]
        tokens, features = runner.tokenize(TEXTS), model.encode(TEXTS, output_value=None)
        length = int(tokens.lengths.max())
        batch = make_batch(tokens, np.arange(len(tokens)), length, runner.route.tokenization, packing)
    outputs = ["sparse_embedding", "multi_vector_embedding"]
    sparse, vectors = plain_session(tmp_path / "cpu.onnx").run(outputs, dict(batch.feeds))
    wanted = np.stack([one["sparse_embedding"] for one in features])
    np.testing.assert_allclose(sparse, wanted, atol=5e-3)
    assert ((sparse > 0) <= (wanted > -1)).all()
    for i, one in enumerate(features):
        np.testing.assert_allclose(batch.of_row(vectors, i)[1:], one["multi_vector_embedding"], atol=2e-3)


def test_int8(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", hidden_size=64, intermediate_size=256)
    write_chain(source, dense(64), mask(), NORMALIZE)
    set_transformer(source, query_expansion={"strategy": "fixed", "length": 12})
    write_top(source)
    bundle = export(source, tmp_path / "bundle", dtype="int8", reference="onnx")
    report = verify(bundle)["default"]
    assert isinstance(report, QualityReport)
    assert report.mean_cosine > 0.99
    with MultiVectorEncoder(bundle) as model:
        assert model.dtype == "int8"
        assert model.encode_query("a dog").shape == (12, 8)


def test_int8_leaves_layers_in_float32_that_no_report_measures(tmp_path: Path) -> None:
    """The report of three outputs is about the dense one."""
    source = make_model(tmp_path / "model", hidden_size=64, intermediate_size=256, pooling="cls")
    for name, outputs in (("sparse_linear", 1), ("colbert_linear", 64)):
        tensors = {"weight": draw(outputs, 64, seed=outputs), "bias": draw(outputs)}
        save_state_dict(source / f"{name}.pt", tensors)
    bundle = export(source, tmp_path / "bundle", dtype=["float32", "int8"], reference="onnx")
    names = [{tensor.name for tensor in _graph(bundle, variant).initializer} for variant in variants(bundle)]
    assert all({"colbert_linear.weight", "sparse_linear.weight"} <= found for found in names)
    with MultiVectorEncoder(bundle) as exact, MultiVectorEncoder(bundle, dtype="int8") as lossy:
        for a, b in zip(exact.encode(TEXTS), lossy.encode(TEXTS), strict=True):
            assert ((a * b).sum(axis=1) > 0.98).all()


def _graph(bundle: Path, variant: Variant) -> Any:
    return onnx.load(bundle / variant.file, load_external_data=False).graph


def refused(folder: Path, message: str, error: type[Exception] = UnsupportedModelError) -> None:
    with pytest.raises(error, match=message):
        export(folder, folder.parent / "bundle", task="multi-vector", reference="onnx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_expansion": {"strategy": "most", "length": 4}}, "query_expansion.strategy: expected one of"),
        ({"query_expansion": {"strategy": "min"}}, "missing field 'length'"),
        ({"query_expansion": {"strategy": "min", "length": 0}}, "query_expansion.length: expected 3 to 64, got 0"),
        ({"query_expansion": {"strategy": "fixed", "length": 65}}, "query_expansion.length: expected 3 to 64, got 65"),
        ({"query_expansion": {"strategy": "min", "length": 4, "token": "notone"}}, "'notone' is not a token"),
        ({"query_expansion": {"strategy": "min", "length": 9}, "query_length": 8}, "query_length: expected at least"),
        ({"document_length": 0}, "document_length: expected more than the 2 special tokens, got 0"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = late_models.fixed(tmp_path / "model")
    set_transformer(folder, **{"query_expansion": None, **settings})
    refused(folder, message)


def test_lengths_beyond_the_positions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = late_models.fixed(tmp_path / "model")
    set_transformer(folder, document_length=100)
    settings = read_manifest(export(folder, tmp_path / "bundle", reference="onnx")).multi_vector
    assert settings is not None
    assert settings.document_length == 64
    assert "document_length 100 exceeds the 64 positions" in caplog.text


def test_chains_that_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    refused(folder, "no Dense module: the model has no trained projection")
    (folder / "modules.json").unlink()
    refused(folder, "not that of a ColBERT checkpoint")
    pooled: Entry = ("HierarchicalTokenPooling", {"pool_factor": 2}, {})
    write_chain(folder, dense(), pooled, mask(), NORMALIZE)
    refused(folder, "expected HierarchicalTokenPooling once, and as the last module")
    write_chain(folder, dense(), mask(), NORMALIZE, ("HierarchicalTokenPooling", {"pool_factor": 0.5}, {}))
    refused(folder, "pool_factor: expected a number from 1 on, got 0.5", ExportError)


def test_padding_on_the_left_is_refused_with_expansion(tmp_path: Path) -> None:
    folder = late_models.fixed(tmp_path / "model")
    late_models.name_token(folder, padding_side="left")
    refused(folder, "query_expansion: padding on the left")


def test_attention_that_is_masked_both_ways(tmp_path: Path) -> None:
    refused(late_models.expanding(tmp_path / "model", "deberta-v2", attend=False), "attend: false is not supported")


def test_a_router_is_refused(tmp_path: Path) -> None:
    folder = late_models.fixed(tmp_path / "model")
    (folder / "router").mkdir()
    config = {"types": {}, "structure": {"query": [], "document": []}, "parameters": {"default_route": "document"}}
    write_json(folder / "router" / "router_config.json", config)
    modules = json.loads((folder / "modules.json").read_bytes())
    router = {"idx": 4, "name": "4", "path": "router", "type": "sentence_transformers.models.Router"}
    write_json(folder / "modules.json", [*modules, router])
    refused(folder, "a Router is not supported in a multi-vector model")


def test_an_older_pylate_model_has_no_model_type(tmp_path: Path) -> None:
    folder = late_models.pylate(tmp_path / "model")
    top = json.loads((folder / "config_sentence_transformers.json").read_bytes())
    wanted = read_manifest(export(folder, tmp_path / "wanted", reference="onnx"))
    write_json(folder / "config_sentence_transformers.json", {**top, "model_type": None})
    found = read_manifest(export(folder, tmp_path / "found", reference="onnx"))
    assert (found.task, found.prompts, found.multi_vector) == (wanted.task, wanted.prompts, wanted.multi_vector)


def test_stanford_without_its_settings(tmp_path: Path) -> None:
    folder = late_models.stanford(tmp_path / "model")
    (folder / "artifact.metadata").write_text("[]")
    refused(folder, "artifact.metadata: expected an object", ExportError)
    (folder / "artifact.metadata").unlink()
    refused(folder, "artifact.metadata: missing", ExportError)


def test_a_model_that_embeds_may_have_no_lengths_of_tasks(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    set_transformer(folder, query_length=8)
    with pytest.raises(UnsupportedModelError, match="query_length"):
        export(folder, tmp_path / "bundle", reference="onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: dataclasses.replace(m, multi_vector=None), "multi_vector: expected an object"),
        (
            lambda m: dataclasses.replace(m, multi_vector=dataclasses.replace(m.multi_vector, document_length=65)),
            "multi_vector.document_length: expected 1 to 64, got 65",
        ),
        (
            lambda m: dataclasses.replace(m, multi_vector=dataclasses.replace(m.multi_vector, skipped_ids=(-1,))),
            r"multi_vector.skipped_ids\[0\]: expected 0 to",
        ),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    bundle = export(late_models.fixed(tmp_path / "model"), tmp_path / "bundle", reference="onnx")
    write_manifest(bundle, change(read_manifest(bundle)))
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


def test_a_packed_variant_attends_to_everything(tmp_path: Path) -> None:
    source = late_models.pylate_attending(tmp_path / "model")
    bundle = export(source, tmp_path / "bundle", dtype=["float32", "float16"], reference="onnx")
    manifest = read_manifest(bundle)
    assert manifest.multi_vector is not None
    assert manifest.multi_vector.expansion is not None
    expansion = dataclasses.replace(manifest.multi_vector.expansion, attend=False)
    several = dataclasses.replace(manifest.multi_vector, expansion=expansion)
    write_manifest(bundle, dataclasses.replace(manifest, multi_vector=several))
    with pytest.raises(BundleError, match=r"multi_vector\.expansion\.attend: expected true beside a packed variant"):
        read_manifest(bundle)


def test_the_layers_of_three_outputs_must_fit(tmp_path: Path) -> None:
    folder = late_models.three_outputs(tmp_path / "model")
    (folder / "sparse_linear.pt").write_bytes((folder / "colbert_linear.pt").read_bytes())
    with pytest.raises(ExportError, match=r"sparse_linear\.pt: tensor 'weight' has shape \(16, 32\)"):
        export(folder, tmp_path / "bundle", reference="onnx")
    (folder / "sparse_linear.pt").unlink()
    with Embedder(export(folder, tmp_path / "bundle", reference="onnx")) as model:
        assert list(model.manifest.routes["default"].outputs) == ["token_embeddings", "sentence_embedding"]


def test_pooling_is_dropped_from_a_model_that_embeds(tmp_path: Path) -> None:
    folder = late_models.converted(tmp_path / "model")
    config = json.loads((folder / "2_Dense" / "config.json").read_bytes())
    assert "module_input_name" not in config
    write_chain(folder, pooling(), ("Dense", config, dense()[2]), mask(), NORMALIZE)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder"})
    manifest = read_manifest(export(folder, tmp_path / "bundle", reference="onnx"))
    assert manifest.dim == 8

"""`verify --reference sentence-transformers`: the model that a bundle was made of, loaded once more."""

from pathlib import Path

import numpy as np
import pytest

from embedrt import Embedder, ModelNotFoundError, ParityError
from embedrt.bundle.reports import QualityReport
from embedrt.cli.main import main
from embedrt_export import export
from embedrt_export.proof.reference import verify_with_sentence_transformers
from tests.kit.bundles import copy_bundle, edit_graph, parity, replace_output
from tests.kit.models import make_model


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Proven without sentence-transformers, so that it has yet to be compared with it."""
    return export(make_model(tmp_path / "model"), tmp_path / "bundle", reference="onnx")


def test_a_bundle_of_a_package(minilm: Embedder) -> None:
    report = verify_with_sentence_transformers(minilm, None)["default"]
    assert report.independent
    assert report.reference.startswith("sentence-transformers 6.2")
    assert report.max_abs_error <= 2e-6


def test_a_bundle_of_a_folder(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not parity(Embedder(bundle).manifest).independent
    with pytest.raises(ModelNotFoundError, match=r"exported from the folder 'model', .* give it as --source"):
        verify_with_sentence_transformers(Embedder(bundle), None)
    command = ["verify", str(bundle), "--reference", "sentence-transformers", "--source", str(tmp_path / "model")]
    assert main(command) == 0
    assert "reference: sentence-transformers 6.2" in capsys.readouterr().out


def test_another_model_and_another_graph(bundle: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(ParityError, match="differ from sentence-transformers"):
        verify_with_sentence_transformers(Embedder(bundle), other)
    import onnx

    def shift(graph: onnx.GraphProto) -> None:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.001, np.float32), "shift"))
        replace_output(graph, onnx.helper.make_node("Mul", ["plain", "shift"], ["sentence_embedding"]))

    changed = copy_bundle(bundle, tmp_path / "changed")
    edit_graph(changed, shift)
    with pytest.raises(ParityError, match="differ from sentence-transformers"):
        verify_with_sentence_transformers(Embedder(changed), tmp_path / "model")


def test_all_coordinates_are_compared_where_the_model_truncates(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    path = model / "config_sentence_transformers.json"
    path.write_text('{"truncate_dim": 8}')
    embedder = Embedder(export(model, tmp_path / "bundle"))
    assert embedder.encode("one").shape == (8,)
    assert embedder.manifest.dim == 32
    assert verify_with_sentence_transformers(embedder, model)["default"].max_abs_error <= 1e-6


def test_a_dtype_that_is_not_exact(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", hidden_size=64, intermediate_size=256)
    folder = export(model, tmp_path / "bundle", dtype="int8")
    embedder = Embedder(folder)
    report = verify_with_sentence_transformers(embedder, model)["default"]
    assert report.reference.startswith("sentence-transformers")
    exported = embedder.manifest.routes["default"].variants[0].proof
    assert isinstance(exported, QualityReport)
    assert report.min_cosine >= exported.parity_min_cosine - 1e-3
    other = make_model(tmp_path / "other", hidden_size=64, intermediate_size=256, seed=1)
    with pytest.raises(ParityError, match="differ from sentence-transformers"):
        verify_with_sentence_transformers(embedder, other)

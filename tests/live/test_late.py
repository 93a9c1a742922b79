"""Multi-vector models against sentence-transformers in this run: the proof of an export, and calls in combination."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import MultiVectorEncoder as Reference
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling as ReferencePooling

from embedrt import HierarchicalTokenPooling, MultiVectorEncoder, ParityReport
from embedrt.types import Task
from embedrt_export import export
from tests.kit import late_models
from tests.kit.late_calls import CALLS, TEXTS, TOLERANCE, answer, differences, worst
from tests.kit.late_models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, tmp_path: Path, record_error: Callable[[str, str, float, float], None]) -> None:
    source = MODELS[name](tmp_path / "model")
    task: Task | None = "multi-vector" if name == "converted" else None
    bundle = export(source, tmp_path / "bundle", task=task, reference="sentence-transformers")
    theirs = Reference(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    with MultiVectorEncoder(bundle) as ours:
        proof = ours.manifest.routes["default"].variants[0].proof
        pairs = [
            (answer(ours, call, HierarchicalTokenPooling), answer(theirs, call, ReferencePooling))
            for call in CALLS[::3]
        ]
    assert isinstance(proof, ParityReport)
    assert proof.independent
    wrong = [f"{call}: {text}" for call, pair in zip(CALLS[::3], pairs, strict=True) if (text := differences(*pair))]
    assert not wrong, "\n".join(wrong)
    error = max([proof.max_abs_error, *(worst(*pair) for pair in pairs)])
    assert error <= TOLERANCE
    record_error("multi-vector", name, error, proof.max_batch_error)


@pytest.mark.parametrize(
    ("family", "attend"),
    [
        ("modernbert", False),
        ("gte", False),
        ("mpnet", False),
        ("distilbert", False),
        ("qwen3", False),
        ("deberta-v2", True),
    ],
)
def test_expansion_of_a_family(family: str, attend: bool, tmp_path: Path) -> None:
    """Tokens that others do not attend to have the same vectors, whatever the kind of attention."""
    source = late_models.expanding(tmp_path / "model", family, attend=attend)
    theirs = Reference(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    with MultiVectorEncoder(export(source, tmp_path / "bundle", reference="onnx")) as ours:
        found, wanted = ours.encode_query(TEXTS), theirs.encode_query(TEXTS, convert_to_numpy=True)
    assert not differences(found, wanted)


def test_tensors(tmp_path: Path) -> None:
    import torch

    bundle = export(MODELS["fixed"](tmp_path / "model"), tmp_path / "bundle", reference="onnx")
    with MultiVectorEncoder(bundle) as model:
        found = model.encode_query(["a dog", "the cat"], convert_to_numpy=False)
        assert all(isinstance(tensor, torch.Tensor) and tensor.shape == (12, 8) for tensor in found)
        assert model.similarity(found, found).shape == (2, 2)

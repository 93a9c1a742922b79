"""Sparse models against sentence-transformers in this run: the proof of an export, and calls in combination."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import SparseEncoder as Reference

from embedrt import ParityReport, SparseEncoder
from embedrt.types import Task
from embedrt.vectors.sparse import as_sparse
from embedrt_export import export
from tests.kit.sparse_calls import CALLS, TEXTS, TOLERANCE, answer, differences, worst
from tests.kit.sparse_models import FAMILIES, MODELS, family_model, splade

Record = Callable[[str, str, float, float], None]


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, tmp_path: Path, record_error: Record) -> None:
    source = MODELS[name](tmp_path / "model")
    task: Task | None = "sparse" if name == "plain" else None
    bundle = export(source, tmp_path / "bundle", task=task, reference="sentence-transformers")
    theirs = Reference(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    with SparseEncoder(bundle) as ours:
        proofs = [route.variants[0].proof for route in ours.manifest.routes.values()]
        pairs = [(answer(ours, call), answer(theirs, call)) for call in CALLS[::3]]
    wrong = [f"{call}: {text}" for call, pair in zip(CALLS[::3], pairs, strict=True) if (text := differences(*pair))]
    assert not wrong, "\n".join(wrong)
    reports = [proof for proof in proofs if isinstance(proof, ParityReport) and proof.independent]
    assert len(reports) == len(proofs)
    error = max([*(report.max_abs_error for report in reports), *(worst(*pair) for pair in pairs)])
    assert error <= TOLERANCE
    record_error("sparse", name, error, max(report.max_batch_error for report in reports))


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, tmp_path: Path, record_error: Record) -> None:
    source = family_model(tmp_path / "model", family)
    with SparseEncoder(export(source, tmp_path / "bundle", reference="sentence-transformers")) as model:
        proof = model.manifest.routes["default"].variants[0].proof
    assert isinstance(proof, ParityReport)
    assert proof.independent
    record_error("sparse head", family, proof.max_abs_error, proof.max_batch_error)


def test_tensors(tmp_path: Path) -> None:
    import torch

    bundle = export(splade(tmp_path / "model"), tmp_path / "bundle", reference="onnx")
    with SparseEncoder(bundle) as model:
        plain = model.encode(TEXTS)
        sparse = model.encode(TEXTS, convert_to_tensor=True)
        assert isinstance(sparse, torch.Tensor)
        assert sparse.is_sparse
        assert (sparse.to_dense().numpy() == plain.to_dense()).all()
        one = model.encode(TEXTS[0], convert_to_tensor=True)
        assert one.shape == (2300,)
        dense = model.encode(TEXTS, convert_to_tensor=True, convert_to_sparse_tensor=False)
        assert (dense.numpy() == plain.to_dense()).all()
        for kind in (sparse, dense, list(sparse), list(dense), sparse.to_sparse_csr(), plain.to_scipy()):
            assert (as_sparse(kind, "vectors").to_dense() == plain.to_dense()).all()
        assert (model.similarity(sparse, dense) == model.similarity(plain, plain)).all()

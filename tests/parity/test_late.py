"""MultiVectorEncoder call by call: embedrt gives what sentence-transformers gave; `make golden` writes that."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from embedrt import Embedder, HierarchicalTokenPooling, MultiVectorEncoder, SparseEncoder
from embedrt.types import Task
from embedrt_export import export
from tests.kit.late_calls import CALLS, REFERENCE, TEXTS, TOLERANCE, answer, differences, load, worst
from tests.kit.late_models import MODELS, three_outputs


@pytest.mark.parametrize("name", MODELS)
def test_calls(name: str, tmp_path: Path) -> None:
    source = MODELS[name](tmp_path / name)
    made = json.loads((REFERENCE / "made.json").read_bytes())["weights_sha256"][name]
    assert hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest() == made
    task: Task | None = "multi-vector" if name == "converted" else None
    with MultiVectorEncoder(export(source, tmp_path / "bundle", task=task, reference="onnx")) as model:
        pairs = [
            (answer(model, call, HierarchicalTokenPooling), wanted)
            for call, wanted in zip(CALLS, load(name), strict=True)
        ]
    wrong = [f"{call}: {text}" for call, pair in zip(CALLS, pairs, strict=True) if (text := differences(*pair))]
    assert not wrong, "\n".join(wrong)
    assert 0 < max(worst(*pair) for pair in pairs) <= TOLERANCE


def test_three_outputs_in_one_pass(tmp_path: Path) -> None:
    bundle = export(three_outputs(tmp_path / "model"), tmp_path / "bundle", reference="onnx")
    with Embedder(bundle) as embedder, MultiVectorEncoder(bundle) as late:
        assert embedder.manifest.task == "embed"
        names = ("sentence_embedding", "sparse_embedding", "multi_vector_embedding")
        features = embedder.encode(TEXTS, output_value=None)
        found = [[one[name] for name in names] for one in features]
        vectors = late.encode(TEXTS)
        assert late.similarity_fn_name == "maxsim"
    with SparseEncoder(bundle) as sparse:
        weights = sparse.encode(TEXTS)
    wanted = load("three_outputs")
    assert [differences(*pair) for pair in zip(found, wanted, strict=True)] == [""] * len(TEXTS)
    assert [differences([one], answer[2:]) for one, answer in zip(vectors, wanted, strict=True)] == [""] * len(TEXTS)
    for i, arrays in enumerate(wanted):
        np.testing.assert_allclose(weights[i].to_dense(), arrays[1], atol=1e-5)
    assert sum((answer[1] > 0).sum() for answer in wanted) > 15


def test_the_calls_are_those_that_were_made() -> None:
    assert json.loads((REFERENCE / "made.json").read_bytes())["calls"] == [str(call) for call in CALLS]
    assert len(CALLS) * len(MODELS) > 90

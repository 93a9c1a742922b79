"""SparseEncoder call by call: embedrt gives what sentence-transformers gave; `make golden` writes that."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from embedrt import SparseEncoder
from embedrt.types import Task
from embedrt_export import export
from tests.kit.sparse_calls import CALLS, REFERENCE, TEXTS, TOLERANCE, answer, described, differences, load, worst
from tests.kit.sparse_models import FAMILIES, MODELS, family_model

MADE = json.loads((REFERENCE / "made.json").read_bytes())


def require_same_weights(folder: Path, name: str) -> None:
    files = sorted(folder.rglob("*.safetensors"))
    found = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert found == MADE["weights_sha256"][name]


@pytest.mark.parametrize("name", MODELS)
def test_calls(name: str, tmp_path: Path) -> None:
    source = MODELS[name](tmp_path / name)
    require_same_weights(source, name)
    task: Task | None = "sparse" if name == "plain" else None
    with SparseEncoder(export(source, tmp_path / "bundle", task=task, reference="onnx")) as model:
        pairs = [(answer(model, call), wanted) for call, wanted in zip(CALLS, load(name), strict=True)]
    wrong = [f"{call}: {text}" for call, pair in zip(CALLS, pairs, strict=True) if (text := differences(*pair))]
    assert not wrong, "\n".join(wrong)
    assert 0 < max(worst(*pair) for pair in pairs) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    source = family_model(tmp_path / family, family)
    require_same_weights(source, family)
    wanted = load("families")[FAMILIES.index(family)]
    with SparseEncoder(export(source, tmp_path / "bundle", reference="onnx")) as model:
        found = described(model.encode(TEXTS))
    assert not differences(found, wanted)
    assert 0 < np.count_nonzero(wanted.arrays[0]) < 0.9 * wanted.arrays[0].size


def test_the_calls_are_those_that_were_made() -> None:
    assert MADE["calls"] == [str(call) for call in CALLS]
    assert len(CALLS) * len(MODELS) > 90

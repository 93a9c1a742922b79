"""CrossEncoder against sentence-transformers in this run: the proof of an export, calls in combination, and torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as Reference

from embedrt import CrossEncoder, ParityReport
from embedrt_export import export
from tests.kit.score_calls import PAIRS, TOLERANCE, answer, calls_of, differences, worst
from tests.kit.score_models import MODELS


@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax:UserWarning")
@pytest.mark.parametrize("name", [*MODELS][1::2])
def test_model(name: str, tmp_path: Path) -> None:
    source = MODELS[name](tmp_path / "model")
    bundle = export(source, tmp_path / "bundle", task="score", reference="sentence-transformers")
    theirs = Reference(str(source), device="cpu", model_kwargs={"dtype": torch.float32})
    calls = calls_of(name)[::3]
    with CrossEncoder(bundle) as ours:
        proof = ours.manifest.routes["default"].variants[0].proof
        pairs = [
            (answer(ours, call, str), answer(theirs, call, lambda kind: getattr(torch.nn, kind)())) for call in calls
        ]
    assert isinstance(proof, ParityReport)
    assert proof.independent
    assert proof.max_abs_error <= TOLERANCE
    wrong = [f"{call}: {text}" for call, pair in zip(calls, pairs, strict=True) if (text := differences(*pair))]
    assert not wrong, "\n".join(wrong)
    assert max(worst(*pair) for pair in pairs) <= TOLERANCE


def test_tensors_and_functions_of_torch(tmp_path: Path) -> None:
    bundle = export(MODELS["three"](tmp_path / "model"), tmp_path / "bundle", reference="onnx")
    with CrossEncoder(bundle) as model:
        array = model.predict(PAIRS)
        tensor = model.predict(PAIRS, convert_to_tensor=True)
        assert torch.equal(tensor, torch.from_numpy(array))
        rows = model.predict(PAIRS, convert_to_numpy=False)
        assert isinstance(rows, list)
        assert torch.equal(torch.stack(rows), tensor)
        assert torch.equal(model.predict(PAIRS[0], convert_to_tensor=True), tensor[0])
        assert model.predict([], convert_to_tensor=True).shape == (0,)
        assert model.predict([], convert_to_numpy=False) == []
        for function in (torch.nn.Softmax(dim=1), torch.sigmoid, torch.nn.Sequential(torch.nn.Tanh(), torch.nn.ReLU())):
            found = model.predict(PAIRS, activation_fn=function)
            assert isinstance(found, np.ndarray)
            np.testing.assert_allclose(found, function(torch.from_numpy(array)).numpy(), atol=1e-6)

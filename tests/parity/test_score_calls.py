"""CrossEncoder call by call: embedrt gives what sentence-transformers gave; `make golden` writes that."""

import hashlib
import json
from pathlib import Path

import pytest

from embedrt import CrossEncoder
from embedrt_export import export
from tests.kit.score_calls import REFERENCE, TOLERANCE, answer, calls_of, differences, load, worst
from tests.kit.score_models import MODELS

GOLDEN = load()


@pytest.mark.parametrize("name", MODELS)
def test_calls(name: str, tmp_path: Path) -> None:
    source = MODELS[name](tmp_path / name)
    made = json.loads((REFERENCE / "calls.json").read_bytes())["weights_sha256"][name]
    assert hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest() == made
    bundle = export(source, tmp_path / "bundle", task="score", reference="onnx")
    with CrossEncoder(bundle) as model:
        pairs = [
            (answer(model, call, str), wanted) for call, (_, wanted) in zip(calls_of(name), GOLDEN[name], strict=True)
        ]
    calls = [str(call) for call in calls_of(name)]
    wrong = [f"{call}: {text}" for call, pair in zip(calls, pairs, strict=True) if (text := differences(*pair))]
    assert not wrong, "\n".join(wrong)
    assert 0 < max(worst(*pair) for pair in pairs) <= TOLERANCE


def test_the_calls_are_those_that_were_made() -> None:
    assert {name: [call for call, _ in made] for name, made in GOLDEN.items()} == {
        name: [str(call) for call in calls_of(name)] for name in MODELS
    }
    assert sum(one.kind != "error" for made in GOLDEN.values() for _, one in made) > 250

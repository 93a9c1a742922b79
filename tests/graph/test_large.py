"""Memory of an export does not grow with the model, measured in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from embedrt import Embedder
from embedrt.engine import session
from embedrt_export import export
from embedrt_export.proof.reference import mapped_weights
from tests.kit.sessions import count_sessions

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "large_model.py"


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_an_export(tmp_path: Path) -> None:
    """193 MB of weights of at most 4 MB each: whoever holds them all at once, anywhere, is over the bound of 138."""
    sizes = ["--hidden", "512", "--inner", "2048", "--layers", "16", "--words", "200", "--tokens", "6"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "--allowed", "130", "--large", "100", "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights 193 MB, largest tensor 4 MB" in done.stdout
    assert re.search(r"^export: \d+ MB anonymous, .*the same graph in onnx", done.stdout, re.MULTILINE)
    assert re.search(r"^verify: \d+ MB anonymous, .*error \d\.\de-0[678]", done.stdout, re.MULTILINE)
    assert "shape (2, 512)" in done.stdout


def test_the_evaluator_gets_views_of_the_data_file(tiny_bundle: Path) -> None:
    path = tiny_bundle / "onnx" / "model.onnx"
    model, whole = onnx.load(path, load_external_data=False), onnx.load(path)
    weights = mapped_weights(model, path.parent)
    expected = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    assert weights
    for name, values in weights.items():
        assert not values.flags.owndata
        assert not values.flags.writeable
        assert (values == expected[name]).all()
    assert {tensor.name for tensor in model.graph.initializer} == set(expected) - set(weights)


def test_large_weights_are_repacked_once_and_never_for_the_proof(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_sessions(monkeypatch)
    small = Embedder(export(tiny_source, tmp_path / "small"), threads=2)
    vectors = small.encode(["the cat", *["a river bank"] * 50])
    assert {prepack for _, prepack in made} == {True}
    made.clear()

    monkeypatch.setattr(session, "LARGE_BYTES", 1)
    large = Embedder(export(tiny_source, tmp_path / "large"), threads=2)
    assert {prepack for _, prepack in made} == {False}
    made.clear()
    assert np.abs(large.encode(["the cat", *["a river bank"] * 50]) - vectors).max() < 2e-6
    assert np.abs(large.encode("the cat") - vectors[0]).max() < 2e-6
    assert made == [(2, True)]

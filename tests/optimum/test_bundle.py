"""Bundles in other tools: optimum's and sentence-transformers' ONNX backends load them and compute the same vectors."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from embedrt import Embedder
from embedrt_export import export
from embedrt_export.proof.texts import parity_texts
from tests.kit.models import make_model, write_json

TOLERANCE = 1e-5


@pytest.mark.parametrize("reader", ["optimum", "sentence-transformers"])
@pytest.mark.parametrize("file", ["model.onnx", "model_cpu.onnx"])
def test_the_vectors_are_those_of_embedrt(reader: str, file: str, tmp_path: Path) -> None:
    embedder = Embedder(export(make_model(tmp_path / "model"), tmp_path / "bundle"))
    texts = parity_texts(48)
    write_json(tmp_path / "texts.json", texts)
    script, found = Path(__file__).with_name("read_bundle.py"), tmp_path / "vectors.npy"
    python = os.environ["EMBEDRT_OPTIMUM_PYTHON"]
    command: list[str | Path] = [python, script, reader, embedder.folder, file, tmp_path / "texts.json", found]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load(found, allow_pickle=False) - embedder.encode(texts)).max() <= TOLERANCE

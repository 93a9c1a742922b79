"""Models by way of optimum-onnx, in the environment that `EMBEDRT_OPTIMUM_PYTHON` names; this one has no torch."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.verify.bundle import verify
from embedrt_export import export
from embedrt_export.families import FAMILIES
from embedrt_export.proof.texts import parity_texts
from tests.kit.models import make_model, vocabulary, write_json

TOLERANCE = 1e-5
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "intermediate_size": 64}
UNKNOWN: dict[str, dict[str, Any]] = {
    "squeezebert": {"hidden_size": 32, "embedding_size": 32},
}


def torch_model(*arguments: str | Path) -> None:
    script = Path(__file__).with_name("torch_model.py")
    python = os.environ["EMBEDRT_OPTIMUM_PYTHON"]
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_known_architecture_has_the_native_vectors(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", "mpnet")
    native = Embedder(export(source, tmp_path / "native"))
    optimum = Embedder(export(source, tmp_path / "optimum", via="optimum"))
    assert optimum.manifest.routes["default"].via == "optimum"
    assert not [path for path in (tmp_path / "optimum").iterdir() if path.name.startswith("tmp")]
    texts = parity_texts(48)
    assert np.abs(optimum.encode(texts) - native.encode(texts)).max() <= TOLERANCE


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_an_unknown_architecture_has_the_vectors_of_torch(model_type: str, tmp_path: Path) -> None:
    assert model_type not in FAMILIES
    config = {"model_type": model_type, "vocab_size": len(vocabulary("bert")), **SMALL, **UNKNOWN[model_type]}
    source = make_model(tmp_path / "model", hidden_size=config["hidden_size"])
    write_json(tmp_path / "config.json", config)
    torch_model("make", source, tmp_path / "config.json")
    embedder = Embedder(export(source, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].via == "optimum"
    texts = parity_texts(48)
    ids = [embedder.tokenize(text)["input_ids"][0].tolist() for text in texts]
    write_json(tmp_path / "ids.json", ids)
    torch_model("vectors", source, tmp_path / "ids.json", tmp_path / "vectors.npy")
    expected = np.load(tmp_path / "vectors.npy", allow_pickle=False)
    assert np.abs(embedder.encode(texts) - expected).max() <= TOLERANCE
    alone = np.stack([embedder.encode(text) for text in texts])
    assert np.abs(alone - expected).max() <= TOLERANCE
    assert verify(embedder)
    assert json.loads((source / "config.json").read_bytes())["model_type"] == model_type

"""Writes the tensor shapes and golden vectors of the small models of every family: `make golden`.

Arguments: the families to write; none means all.
"""

import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import transformers
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

from tests.kit.family_models import FAMILIES, REFERENCE, Case, as_transformers, cases, texts_for, write_repo


def tensor_shapes(family: str, case: Case) -> dict[str, list[int]]:
    """Names and shapes of the tensors, as transformers saves a model of this config."""
    config = transformers.AutoConfig.for_model(case.reference or family, **case.config)
    kind: Any = getattr(transformers, case.model_class)
    with tempfile.TemporaryDirectory() as folder:
        (kind.from_config(config) if hasattr(kind, "from_config") else kind(config)).save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", framework="np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def vectors_of(folder: Path) -> tuple[np.ndarray, int]:
    """The vectors of every text alone, and the maximum length."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    limit = model.max_seq_length
    assert limit is not None
    return np.stack([model.encode(text, show_progress_bar=False) for text in texts_for(limit)]), limit


def make(family: str) -> None:
    """Writes the two files of one family."""
    made: dict[str, Any] = {}
    vectors: dict[str, np.ndarray] = {}
    for name, case in cases(family).items():
        shapes = tensor_shapes(family, case)
        with tempfile.TemporaryDirectory() as folder:
            vectors[name], limit = vectors_of(write_repo(Path(folder), family, as_transformers(case), shapes))
        assert np.isfinite(vectors[name]).all(), name
        print(family, name, vectors[name].shape)
        made[name] = {"max_seq_length": limit, "tensors": shapes}
    REFERENCE.mkdir(exist_ok=True)
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers")
    made_with = {package: version(package) for package in packages}
    np.savez_compressed(REFERENCE / f"{family}.npz", **vectors)  # type: ignore[arg-type]
    digest = hashlib.sha256((REFERENCE / f"{family}.npz").read_bytes()).hexdigest()
    record = {"made_with": made_with, "vectors_sha256": digest, "cases": made}
    (REFERENCE / f"{family}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or FAMILIES:
        make(chosen)

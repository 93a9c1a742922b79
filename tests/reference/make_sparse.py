"""Writes what sentence-transformers gives for every call of tests/kit/sparse_calls.py: `make golden`."""

import hashlib
import json
import os
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from sentence_transformers import SparseEncoder

from tests.kit.sparse_calls import CALLS, REFERENCE, TEXTS, Answer, answer, described, save
from tests.kit.sparse_models import FAMILIES, MODELS, family_model


def main() -> None:
    """Makes all models and calls them."""
    torch.set_num_threads(1)  # so that the number of processors changes no sum
    warnings.filterwarnings("ignore", message=".*[Ss]parse.*")
    weights = {}
    for name, write in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write(Path(scratch) / name)
            weights[name] = digest(folder)
            model = reference(folder)
            save(name, [answer(model, call) for call in CALLS])
        print(name, flush=True)
    families: list[Answer] = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = family_model(Path(scratch) / family, family)
            weights[family] = digest(folder)
            families.append(described(reference(folder).encode(TEXTS)))
        print(family, flush=True)
    save("families", families)
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers", "numpy")
    made = {
        "made_with": {package: version(package) for package in packages},
        "weights_sha256": weights,
        "calls": [str(call) for call in CALLS],
    }
    (REFERENCE / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def reference(folder: Path) -> SparseEncoder:
    """The model as sentence-transformers loads it."""
    return SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


def digest(folder: Path) -> str:
    """SHA-256 over the weights of a model folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    main()

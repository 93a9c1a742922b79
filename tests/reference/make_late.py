"""Writes what sentence-transformers gives for every call of tests/kit/late_calls.py: `make golden`."""

import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from tests.kit.late_calls import CALLS, REFERENCE, answer, save
from tests.kit.late_models import MODELS


def main() -> None:
    """Makes all models and calls them."""
    torch.set_num_threads(1)  # so that the number of processors changes no sum
    weights = {}
    for name, write in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write(Path(scratch) / name)
            weights[name] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
            model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
            save(name, [answer(model, call, HierarchicalTokenPooling) for call in CALLS])
        print(name, flush=True)
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers", "numpy")
    made = {
        "made_with": {package: version(package) for package in packages},
        "weights_sha256": weights,
        "calls": [str(call) for call in CALLS],
    }
    (REFERENCE / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

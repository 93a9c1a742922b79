"""Writes what sentence-transformers gives for every call of tests/kit/score_calls.py: `make golden`."""

import hashlib
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from sentence_transformers import CrossEncoder

from tests.kit.score_calls import answer, calls_of, save
from tests.kit.score_models import MODELS


def main() -> None:
    """Makes all models and calls them."""
    torch.set_num_threads(1)  # so that the number of processors changes no sum
    weights, answers = {}, {}
    for name, write in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write(Path(scratch) / name)
            weights[name] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
            model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
            answers[name] = [answer(model, call, lambda kind: getattr(torch.nn, kind)()) for call in calls_of(name)]
        for call, one in zip(calls_of(name), answers[name], strict=True):
            assert (one.kind == "error") >= call.fails, f"{name}: {call}"
        print(name, len(answers[name]), sum(one.kind == "error" for one in answers[name]), flush=True)
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers", "numpy")
    save(answers, {"made_with": {package: version(package) for package in packages}, "weights_sha256": weights})


if __name__ == "__main__":
    main()

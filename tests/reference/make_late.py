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
from transformers import AutoModel, AutoTokenizer

from tests.kit import late_models as models
from tests.kit.late_calls import CALLS, REFERENCE, TEXTS, Answer, answer, save
from tests.kit.late_models import MODELS


def write_layers() -> None:
    """Writes two small layers as those of BGE-M3: a state dict in float16, and one of parameters in float32."""
    generator = torch.Generator().manual_seed(7)
    for name, outputs, dtype in (("sparse_linear", 1, torch.float32), ("colbert_linear", 16, torch.float16)):
        layer = torch.nn.Linear(32, outputs).to(dtype)
        for parameter in layer.parameters():
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.3).to(dtype)
        torch.save(layer.state_dict(), REFERENCE / f"{name}.pt")


def three_outputs(folder: Path) -> list[Answer]:
    """The three outputs as FlagEmbedding computes them, for every text: dense, token weights, token vectors."""
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    layers = {}
    for name, outputs in (("sparse_linear", 1), ("colbert_linear", 16)):
        layers[name] = torch.nn.Linear(32, outputs)
        layers[name].load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    unused = [tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    answers = []
    for text in TEXTS:
        inputs = tokenizer([text], return_tensors="pt", truncation=True, max_length=48)
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
            dense = torch.nn.functional.normalize(hidden[:, 0], dim=-1)[0]
            weights = torch.relu(layers["sparse_linear"](hidden))[0, :, 0]
            sparse = torch.zeros(model.config.vocab_size).scatter_reduce(0, inputs["input_ids"][0], weights, "amax")
            sparse[[i for i in unused if i is not None]] = 0
            vectors = torch.nn.functional.normalize(layers["colbert_linear"](hidden[:, 1:]), dim=-1)[0]
        answers.append([array.numpy() for array in (dense, sparse, vectors)])
    return answers


def main() -> None:
    """Makes all models and calls them."""
    torch.set_num_threads(1)  # so that the number of processors changes no sum
    write_layers()
    with tempfile.TemporaryDirectory() as scratch:
        save("three_outputs", three_outputs(models.three_outputs(Path(scratch) / "model")))
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

"""Runs in the environment that has optimum-onnx: encodes texts with a bundle as other tools read it.

python read_bundle.py optimum|sentence-transformers BUNDLE FILE TEXTS.json VECTORS.npy
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def optimum(bundle: str, file: str, texts: list[str]) -> Any:
    """The normalized means of the last hidden states, by ORTModelForFeatureExtraction."""
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    model = ORTModelForFeatureExtraction.from_pretrained(bundle, subfolder="onnx", file_name=file)
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()


def sentence_transformers(bundle: str, file: str, texts: list[str]) -> Any:
    """The vectors of the ONNX backend, which pools by the bundle's modules.json."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(bundle, backend="onnx", model_kwargs={"file_name": f"onnx/{file}"}).encode(texts)


if __name__ == "__main__":
    reader, bundle, file, texts, output = sys.argv[1:]
    encode = optimum if reader == "optimum" else sentence_transformers
    vectors = encode(bundle, file, json.loads(Path(texts).read_text(encoding="utf-8")))
    np.save(output, vectors, allow_pickle=False)

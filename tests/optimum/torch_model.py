"""Runs in the environment that has optimum-onnx: makes a small model with torch, or computes its vectors.

python torch_model.py make FOLDER CONFIG.json
python torch_model.py vectors FOLDER IDS.json VECTORS.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel


def make(folder: str, config: str) -> None:
    """A model with random weights, whose layer norms are no identities."""
    torch.manual_seed(0)
    settings = json.loads(Path(config).read_text(encoding="utf-8"))
    model = AutoModel.from_config(AutoConfig.for_model(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0, 0.15)
    model.save_pretrained(folder, safe_serialization=True)


def vectors(folder: str, ids: str, output: str) -> None:
    """The normalized means of the token embeddings, of each list of token ids alone."""
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    rows = []
    with torch.no_grad():
        for text in json.loads(Path(ids).read_text(encoding="utf-8")):
            tokens = model(input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text), dtype=torch.int64))
            rows.append(torch.nn.functional.normalize(tokens.last_hidden_state.mean(dim=1), dim=1).numpy())
    np.save(output, np.concatenate(rows), allow_pickle=False)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:])
    else:
        vectors(*sys.argv[2:])

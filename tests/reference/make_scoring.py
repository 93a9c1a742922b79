"""Writes the tensor shapes and golden logits of the small models with classification heads: `make golden`."""

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
import torch
import transformers
from safetensors import safe_open
from sentence_transformers import CrossEncoder

from tests.kit.scoring_heads import (
    CHAINS,
    REFERENCE,
    HeadCase,
    head_cases,
    pairs_for,
    write_chain_repo,
    write_head_repo,
)


def tensor_shapes(case: HeadCase) -> dict[str, list[int]]:
    """Names and shapes of the tensors, as transformers saves a model of this config."""
    config = transformers.AutoConfig.for_model(case.family, num_labels=case.labels, **case.config)
    model: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", framework="np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def logits_of(folder: Path, pairs: list[tuple[str, str]], labels: int) -> np.ndarray:
    """The logits of every pair alone, float32 `[pairs, labels]`."""
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    assert model.num_labels == labels
    identity = torch.nn.Identity()
    rows = [model.predict(pair, activation_fn=identity, show_progress_bar=False) for pair in pairs]
    return np.stack(rows).astype(np.float32).reshape(len(pairs), labels)


def main() -> None:
    """Writes the two files."""
    shapes, logits = {}, {}
    for name, case in head_cases().items():
        shapes[name] = tensor_shapes(case)
        with tempfile.TemporaryDirectory() as folder:
            source = write_head_repo(Path(folder), case, shapes[name], plain=True)
            logits[name] = logits_of(source, pairs_for(case), case.labels)
    for name, chain in CHAINS.items():
        with tempfile.TemporaryDirectory() as folder:
            source = write_chain_repo(Path(folder), chain, shapes[chain.base])
            logits[name] = logits_of(source, pairs_for(head_cases()[chain.base]), chain.labels)
    for name, values in logits.items():
        assert np.isfinite(values).all(), name
        print(name, values.shape)
    REFERENCE.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE / "heads.npz", **logits)  # type: ignore[arg-type]
    record = {
        "made_with": {
            package: version(package) for package in ("sentence-transformers", "transformers", "torch", "tokenizers")
        },
        "logits_sha256": hashlib.sha256((REFERENCE / "heads.npz").read_bytes()).hexdigest(),
        "tensors": shapes,
    }
    (REFERENCE / "heads.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

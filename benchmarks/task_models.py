"""The models of `benchmarks.tasks`: `python -m benchmarks.task_models NAME MINILM_FOLDER TARGET`."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.repository import ROOT

# So that some hundred of the 30,522 entries of the vocabulary are above zero in a document, as in a trained model.
_BIAS = -17.0
_SCALE = 3.0


def rerank(_: Path, target: Path) -> None:
    """The cross-encoder of the example, for pairs of up to 512 tokens."""
    spec = importlib.util.spec_from_file_location("reranker", ROOT / "examples" / "reranker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(target)
    settings = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    (target / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 512}), encoding="utf-8")


def sparse(like: Path, target: Path) -> None:
    """The body of a model with a seeded language model's head, whose decoder is the table of embeddings."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(like / name, target / name)
    body = load_file(like / "model.safetensors")
    rows, width = body["embeddings.word_embeddings.weight"].shape
    draw = np.random.default_rng(0)
    transform = np.eye(width) + 0.2 * draw.standard_normal((width, width)) / np.sqrt(width)
    head = {
        "transform.dense.weight": transform,
        "transform.dense.bias": np.zeros(width),
        "transform.LayerNorm.weight": np.full(width, _SCALE),
        "transform.LayerNorm.bias": np.zeros(width),
        "bias": np.full(rows, _BIAS),
    }
    tensors = {f"bert.{name}": values for name, values in body.items() if not name.startswith("pooler.")}
    tensors.pop("bert.embeddings.position_ids", None)
    tensors |= {f"cls.predictions.{name}": values.astype(np.float32) for name, values in head.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((like / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": True}
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


MAKERS: dict[str, Callable[[Path, Path], None]] = {"rerank": rerank, "sparse": sparse}
"""By name."""

if __name__ == "__main__":
    MAKERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))

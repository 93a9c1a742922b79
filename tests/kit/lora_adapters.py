"""LoRA adapters, written as peft writes them."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.kit.models import Tensors, write_json

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
LAYERS = [f"encoder.layer.{i}" for i in range(2)]
QUERIES = [f"{layer}.attention.self.query" for layer in LAYERS]
INPUTS = [f"{layer}.intermediate.dense" for layer in LAYERS]
WORDS = "embeddings.word_embeddings"
SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": None,
    "peft_version": "0.21.2",
    "r": 4,
    "lora_alpha": 6,
    "lora_dropout": 0.1,
    "bias": "none",
    "target_modules": ["query"],
    "modules_to_save": None,
    "inference_mode": True,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "use_dora": False,
    "layer_replication": None,
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "base_model_name_or_path": None,
}


def lora(shapes: dict[str, tuple[int, int]], rank: int, seed: int = 7) -> Tensors:
    """LoRA matrices for modules whose weights have these shapes."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module, (outputs, inputs) in shapes.items():
        a, b = (rank, inputs), (outputs, rank)
        names = (".lora_A.weight", ".lora_B.weight")
        if module == WORDS:
            a, b, names = (rank, outputs), (inputs, rank), (".lora_embedding_A", ".lora_embedding_B")
        for name, shape in zip(names, (a, b), strict=True):
            tensors[ROOT + module + name] = random.normal(0, 0.3, shape).astype(np.float32)
    return tensors


def write_adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    write_json(folder / CONFIG, SETTINGS | config)
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / TENSORS)
    return folder

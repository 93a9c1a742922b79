"""Repos with chains of modules, written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.kit.models import write_json, write_tokenizer

Entry = tuple[str, dict[str, Any] | None, dict[str, Any]]
TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Router": "sentence_transformers.base.modules.router.Router",
}


def module_type(kind: str) -> str:
    """The import path that modules.json has for a module."""
    return TYPES.get(kind, f"sentence_transformers.sentence_transformer.modules.{kind}")


def write_chain(folder: Path, *entries: Entry) -> Path:
    """Puts modules after the transformer of a repo: (kind, config, tensors) of each."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": module_type("Transformer")}]
    for i, (kind, config, tensors) in enumerate(entries, start=1):
        path = f"{i}_{kind}"
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            write_json(folder / path / "config.json", config)
        if tensors:
            save_file(
                {name: np.ascontiguousarray(values) for name, values in tensors.items()},
                folder / path / "model.safetensors",
            )
        modules.append({"idx": i, "name": str(i), "path": path, "type": module_type(kind)})
    write_json(folder / "modules.json", modules)
    return folder


def write_static(folder: Path, tensors: dict[str, NDArray[Any]], *more: str) -> Path:
    """A repo with a table of token embeddings and nothing else, but the modules named."""
    write_tokenizer(folder, "bert")
    save_file(tensors, folder / "model.safetensors")
    kinds = ["StaticEmbedding", *more]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": module_type(kind)}
            for i, kind in enumerate(kinds)
        ],
    )
    return folder


def pooling(mode: Any = "mean", dim: int = 32, **more: Any) -> Entry:
    """A Pooling for `write_chain`."""
    return "Pooling", {"embedding_dimension": dim, "pooling_mode": mode, **more}, {}


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random weights."""
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)

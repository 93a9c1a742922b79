"""Ways to change a model folder, for tests of what the export says about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.kit.models import Tensors, write_json


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON object; the value `...` removes the key."""
    content = json.loads(path.read_bytes()) | changes
    write_json(path, {key: value for key, value in content.items() if value is not ...})


def edit_weights(folder: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    """Rewrites `model.safetensors` after `change` edited its tensors or returned others."""
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors)
    tensors = tensors if changed is None else changed
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / "model.safetensors")


def shard(folder: Path, count: int = 3, *, reverse: bool = False) -> None:
    """Replaces `model.safetensors` by shards and their index, every tensor in another shard than its neighbours."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors, reverse=reverse)
    files = {name: f"model-{i % count + 1:05}-of-{count:05}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})

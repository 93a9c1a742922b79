"""Weights from safetensors files: read one at a time, memory-mapped, checked, as float32."""

import hashlib
import json
import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy, which safetensors then returns
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.records import RecordError, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = {"F16", "BF16", "F32", "F64"}
_LEGACY_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}  # LayerNorm parameters in repos of the TensorFlow era


class Weights:
    """The tensors of one repo by name, without the prefix that a model saved with a head gives them.

    Args:
        folder: The folder with `model.safetensors`, or with the index of a sharded model.
        prefixes: Prefixes to try, such as "bert."; the first that any tensor has is stripped.
        renames: Patterns for whole names without prefix, and the names that they get instead.

    Raises:
        ExportError: There are no such files, or they are damaged.
    """

    def __init__(self, folder: Path, prefixes: tuple[str, ...] = (), renames: tuple[tuple[str, str], ...] = ()) -> None:
        self._stack = ExitStack()
        self._places: dict[str, tuple[Path, Any, str]] = {}
        self._digests: dict[str, str] = {}
        try:
            found = [place for file in _files(folder) for place in self._open(file)]
            prefix = next((p for p in prefixes if any(name.startswith(p) for _, _, name in found)), "")
            for place in found:
                self._add(_plain(place[2], prefix, renames), place)
            bar = tqdm(total=len(found), desc="Reading weights", unit="tensor", leave=False, disable=None)
            self._bar = self._stack.enter_context(bar)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Weights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __call__(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Reads one tensor.

        Args:
            name: Its name without prefix.
            *shape: The shape that the config promises.

        Raises:
            ExportError: It is missing, of another shape, not of floats, or not finite.
        """
        if name not in self._places:
            raise ExportError(f"weights: tensor {name!r} is missing; the config says that the model has it")
        path, file, stored_name = self._places[name]
        view = self._view(name)
        if (found := tuple(view.get_shape())) != shape:
            raise ExportError(f"{path.name}: tensor {stored_name!r} has shape {found}, the config says {shape}")
        if view.get_dtype() not in _FLOATS:
            raise UnsupportedModelError(
                f"{path.name}: tensor {stored_name!r} is stored as {view.get_dtype()}; "
                f"expected {', '.join(sorted(_FLOATS))} "
                "(quantized weights cannot be exported; use the repo that the model was quantized from)"
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and told below
            values: NDArray[np.float32] = file.get_tensor(stored_name).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ExportError(f"{path.name}: tensor {stored_name!r} has NaN or infinity")
        self._bar.update()
        self._digests[name] = hashlib.sha256(str(shape).encode() + np.ascontiguousarray(values).data).hexdigest()
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that is there.

        Raises:
            ExportError: It is missing.
        """
        if name not in self._places:
            raise ExportError(f"weights: tensor {name!r} is missing; there are {', '.join(sorted(self._places)[:5])}")
        return tuple(self._view(name).get_shape())

    def matrix_shape(self, name: str) -> tuple[int, int]:
        """The shape of a tensor that must be a matrix.

        Raises:
            ExportError: It is missing, empty, or no matrix.
        """
        shape = self.shape(name)
        if len(shape) != 2 or 0 in shape:
            raise ExportError(f"weights: tensor {name!r} has shape {shape}; expected rows and columns")
        return shape[0], shape[1]

    def integers(self, name: str) -> NDArray[np.int64]:
        """Reads a vector of integers.

        Raises:
            ExportError: It is missing, no vector, or not of integers.
        """
        shape = self.shape(name)
        _, file, stored_name = self._places[name]
        values = file.get_tensor(stored_name)
        if len(shape) != 1 or values.dtype.kind not in "iu":
            raise ExportError(f"weights: tensor {name!r} is {values.dtype} {shape}; expected a vector of integers")
        converted: NDArray[np.int64] = values.astype(np.int64)
        return converted

    def unread(self, starts: tuple[str, ...], ignored: tuple[str, ...] = ()) -> list[str]:
        """Tensors of floats whose names start with one of `starts` and that nobody read.

        Tensors of integers are buffers, such as `embeddings.position_ids`, which the graph computes by itself.
        """
        left = [
            name
            for name in self._places
            if name.startswith(starts)
            and name not in self._digests
            and not any(re.fullmatch(pattern, name) for pattern in ignored)
        ]
        return sorted(name for name in left if self._view(name).get_dtype() in _FLOATS)

    def digest(self) -> str:
        """SHA-256 over names, shapes and float32 values of what was read, whatever the files and their order."""
        return hashlib.sha256(json.dumps(self._digests, sort_keys=True).encode()).hexdigest()

    def _view(self, name: str) -> Any:
        _, file, stored_name = self._places[name]
        return file.get_slice(stored_name)

    def _add(self, name: str, place: tuple[Path, Any, str]) -> None:
        (path, _, stored_name), (other, _, other_name) = place, self._places.setdefault(name, place)
        if (path, stored_name) != (other, other_name):
            raise ExportError(
                f"weights: two tensors for {name!r}: {other_name!r} in {other.name} and {stored_name!r} in {path.name}"
            )

    def _open(self, path: Path) -> list[tuple[Path, Any, str]]:
        try:
            file = self._stack.enter_context(safe_open(path, framework="np"))
            names = list(file.keys())
        except (SafetensorError, OSError) as error:
            with path.open("rb") as head:
                pointer = head.read(16).startswith(b"version https:")
            remedy = "it is a Git LFS pointer, run `git lfs pull`" if pointer else "get the file again"
            raise ExportError(f"{path.name}: not a whole safetensors file: {error}; {remedy}") from error
        return [(path, file, name) for name in names]


def _plain(name: str, prefix: str, renames: tuple[tuple[str, str], ...]) -> str:
    name = name.removeprefix(prefix)
    for pattern, replacement in renames:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    for old, new in _LEGACY_SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".h5", ".msgpack", ".onnx", ".pt"})
        there = f"it has {', '.join(others)}, which are not read; " if others else ""
        raise ExportError(
            f"{folder.name}: no {SINGLE} and no {INDEX}; {there}"
            "save the model with safetensors (`save_pretrained` does), or ask its authors to"
        )
    try:
        shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (RecordError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{INDEX}: not an index of shards: {error}") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ExportError(f"{INDEX}: {shard!r} is not the name of a file beside it")
        if not (folder / shard).is_file():
            raise ExportError(f"{folder.name}: shard {shard} is listed in {INDEX}, but missing; get the model again")
    return [folder / shard for shard in shards]

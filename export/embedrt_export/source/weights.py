"""Weights from safetensors files: memory-mapped, checked, and read one at a time as float32."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from embedrt.bundle.strict_json import MAX_BYTES, RecordError, is_lfs_pointer, read_json
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.source.torch_file import TorchFileError, read_state_dict

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Files are little-endian on every machine.
_FLOATS = {"F16": "<f2", "BF16": ml_dtypes.bfloat16, "F32": "<f4", "F64": "<f8"}
_INTEGERS = {"I32": "<i4", "I64": "<i8", "U32": "<u4", "U16": "<u2", "I16": "<i2"}
# Values checked for NaN at a time, as booleans for a whole tensor would take memory.
_CHUNK = 1 << 22
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
_SHOWN = 160
# Beyond what NumPy can address in the widest dtype.
_MOST_VALUES = 2**59
# Suffixes of tensors beside or instead of a quantized weight.
_QUANTIZED = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".SCB",
    ".absmax",
    ".quant_map",
)
_OTHER_FORMATS = {".bin", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".ckpt", ".gguf", ".ot"}
_LEGACY_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}  # LayerNorm parameters in repos converted from TensorFlow


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file, whose values are read on demand.

    Attributes:
        file: The file's name.
        name: The tensor's name in the file.
        dtype: Its dtype in safetensors, such as "BF16".
        shape: Its shape.
        raw: Its bytes, mapped from the file.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]

    def __str__(self) -> str:
        return f"{self.file}: tensor {quote(self.name)}"

    def read(self) -> NDArray[np.float32]:
        """Read the values as float32. Stored float32 is mapped, not copied.

        Raises:
            UnsupportedModelError: The values are not floats.
            ExportError: A value is not finite.
        """
        if self.dtype not in _FLOATS:
            raise UnsupportedModelError(
                f"{self} is stored as {self.dtype}; expected {', '.join(sorted(_FLOATS))} "
                "(quantized weights cannot be exported; use the repo that the model was quantized from)"
            )
        stored: NDArray[Any] = self.raw.view(_FLOATS[self.dtype])
        with np.errstate(over="ignore"):  # float64 may overflow to infinity, which is an error below
            flat = stored.astype(np.float32, copy=False)
        for start in range(0, flat.size, _CHUNK):
            if not np.isfinite(flat[start : start + _CHUNK]).all():
                raise ExportError(f"{self} has NaN or infinity")
        return flat.reshape(self.shape)


class Merges(Protocol):
    """Interface of an adapter, which changes tensors of its base model."""

    def replaces(self, name: str) -> bool: ...  # noqa: D102
    def replacement(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]: ...  # noqa: D102
    def merge(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]: ...  # noqa: D102
    def unused(self, *starts: str) -> list[str]: ...  # noqa: D102


class Weights:
    """Tensors of one repo by name, without the prefix that models saved with a head add.

    Args:
        folder: The folder with `model.safetensors`, or with the index of a sharded model.
        prefixes: Prefixes to try, such as "bert."; the first that any tensor has is stripped.
        renames: Patterns of whole names without prefix, with their replacements.
        adapter: An adapter to merge into each tensor as it is read.
        files: Other files than those of the model, in safetensors or of `torch.save`.

    Raises:
        ExportError: The files are missing or damaged.
    """

    def __init__(
        self,
        folder: Path,
        prefixes: tuple[str, ...] = (),
        renames: tuple[tuple[str, str], ...] = (),
        adapter: Merges | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        self._adapter = adapter
        self._tensors: dict[str, Tensor] = {}
        self._digests: dict[str, str] = {}
        found = [tensor for file in (_files(folder) if files is None else files) for tensor in open_tensors(file)]
        if quantized := next((tensor for tensor in found if tensor.name.endswith(_QUANTIZED)), None):
            raise UnsupportedModelError(
                f"{quantized} belongs to quantized weights (GPTQ, AWQ, bitsandbytes, FP8, ...); expected floats; "
                "export the repo that the model was quantized from"
            )
        prefix = next((p for p in prefixes if any(tensor.name.startswith(p) for tensor in found)), "")
        for tensor in found:
            self._add(plain_name(tensor.name, prefix, renames), tensor)
        self._bar = tqdm(total=len(found), desc="Reading weights", unit="tensor", leave=False, disable=None)

    def __enter__(self) -> "Weights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._tensors.clear()  # a file stays mapped as long as one of its tensors is referenced

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __call__(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Read one tensor.

        Args:
            name: Its name without prefix.
            *shape: The shape that follows from the config.

        Returns:
            The values; read-only if they are mapped from the file.

        Raises:
            ExportError: The tensor is missing, has another shape, or has values that are not finite.
        """
        if self._adapter is not None and self._adapter.replaces(name):
            values = self._adapter.replacement(name, shape)
        else:
            values = self._stored(name, shape)
            if self._adapter is not None:
                values = self._adapter.merge(name, values)
        self._bar.update()
        digest = hashlib.sha256(str(shape).encode())
        digest.update(np.ascontiguousarray(values).data)
        self._digests[name] = digest.hexdigest()
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            ExportError: The tensor is missing.
        """
        return self._tensor(name).shape

    def matrix_shape(self, name: str) -> tuple[int, int]:
        """Shape of a matrix.

        Raises:
            ExportError: The tensor is missing, empty, or not a matrix.
        """
        shape = self.shape(name)
        if len(shape) != 2 or 0 in shape:
            raise ExportError(f"weights: tensor {name!r} has shape {shape}; expected rows and columns")
        return shape[0], shape[1]

    def integers(self, name: str) -> NDArray[np.int64]:
        """Read a vector of integers.

        Raises:
            ExportError: The tensor is missing, not a vector, or not of integers.
        """
        tensor = self._tensor(name)
        if len(tensor.shape) != 1 or tensor.dtype not in _INTEGERS:
            raise ExportError(f"{tensor}: expected a vector of integers, got {tensor.dtype} {tensor.shape}")
        return tensor.raw.view(_INTEGERS[tensor.dtype]).astype(np.int64)

    def unused(self, starts: tuple[str, ...], ignored: tuple[str, ...] = ()) -> list[str]:
        """Names of float tensors that start with one of `starts` and were not read.

        Integer tensors are buffers, such as `embeddings.position_ids`, which the graph computes itself.
        """
        left = [
            name
            for name in self._tensors
            if name.startswith(starts)
            and name not in self._digests
            and not any(re.fullmatch(pattern, name) for pattern in ignored)
        ]
        unused = sorted(name for name in left if self._tensors[name].dtype in _FLOATS)
        return unused if self._adapter is None else unused + self._adapter.unused(*starts)

    def digest(self) -> str:
        """SHA-256 over names, shapes and float32 values of the tensors read, independent of files and their order."""
        return hashlib.sha256(json.dumps(self._digests, sort_keys=True).encode()).hexdigest()

    def _stored(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        tensor = self._tensor(name)
        if tensor.shape != shape:
            raise ExportError(f"{tensor} has shape {str(tensor.shape)[:_SHOWN]}, config.json requires {shape}")
        return tensor.read()

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise ExportError(f"weights: tensor {name!r} is missing, but config.json requires it")
        return self._tensors[name]

    def _add(self, name: str, tensor: Tensor) -> None:
        other = self._tensors.setdefault(name, tensor)
        if other is not tensor:
            raise ExportError(
                f"weights: two tensors for {quote(name)}: {quote(other.name)} in {other.file} and "
                f"{quote(tensor.name)} in {tensor.file}"
            )


def open_tensors(path: Path) -> list[Tensor]:
    """Map the tensors of one safetensors file, or read those of a small file of `torch.save`.

    The library checks the header of safetensors; no values are read.

    `safe_open(...).get_tensor` would copy every tensor into memory.

    Raises:
        ExportError: The file is not a complete safetensors file.
    """
    if is_lfs_pointer(path):
        raise _damaged(path, "it is a Git LFS pointer", "run `git lfs pull`")
    if path.suffix == ".pt":
        return _open_torch_tensors(path)
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    if start > MAX_BYTES:
        raise _damaged(path, f"expected a header of at most {MAX_BYTES} bytes, found {start}")
    try:
        with safe_open(path, framework="np"):
            pass
        mapped = np.memmap(path, np.uint8, mode="r")
        header = json.loads(mapped[8:start].tobytes())
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if math.prod(side or 1 for side in shape) > _MOST_VALUES:  # the library checks the product, which may be 0
            raise _damaged(path, f"tensor {quote(name)} has shape {str(shape)[:_SHOWN]}")
        raw: NDArray[np.uint8] = np.asarray(mapped)[start + begin : start + end]
        tensors.append(Tensor(path.name, name, entry["dtype"], shape, raw))
    return tensors


def _open_torch_tensors(path: Path) -> list[Tensor]:
    try:
        found = read_state_dict(path)
    except TorchFileError as error:
        raise ExportError(
            f"{path.name}: not a state dict of torch.save: {error}; get the file again, or save it with "
            "`torch.save(module.state_dict(), FILE)`"
        ) from error
    return [Tensor(path.name, name, one.dtype, one.shape, one.raw) for name, one in found.items()]


def _damaged(path: Path, reason: str, remedy: str = "get the file again") -> ExportError:
    return ExportError(f"{path.name}: not a complete safetensors file: {reason}; {remedy}")


def quote(name: str) -> str:
    """Quote a name from a repo for a message: without control characters, and truncated."""
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "...")


def plain_name(name: str, prefix: str, renames: tuple[tuple[str, str], ...] = ()) -> str:
    """Strip the prefix of a tensor's name, and apply the renames of its family and of LayerNorm."""
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
        others = sorted(p.name for p in folder.glob("*") if p.suffix in _OTHER_FORMATS)
        there = f"{', '.join(others)} cannot be read; " if others else ""
        raise ExportError(
            f"{folder.name}: no {SINGLE} and no {INDEX}; {there}"
            "save the model as safetensors with transformers "
            "(`AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)`), or ask its authors to"
        )
    try:
        shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (RecordError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{INDEX}: not an index of shards: {error}; get the file again") from error
    for shard in shards:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ExportError(f"{INDEX}: {quote(str(shard))} is not the name of a safetensors file in this folder")
        if not (folder / shard).is_file():
            raise ExportError(f"{folder.name}: shard {shard} is listed in {INDEX} but missing; get the model again")
    return [folder / shard for shard in shards]

"""Data file of a bundle: the weights of its graphs, aligned for memory mapping."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt.bundle.check import FileRecord

_INLINE_BYTES = 1024
# Large tensors start at offsets that every system can map (multiples of 64 KiB on Windows), small ones at cache lines.
_LARGE_BYTES, _LARGE_ALIGNMENT, _SMALL_ALIGNMENT = 1 << 20, 1 << 16, 64


@dataclass(frozen=True)
class Mark:
    """A point in the writing of a data file, to return to.

    Attributes:
        size: The size of the file.
        sha256: The hash of what it holds.
    """

    size: int
    sha256: Any


class DataFile:
    """File with the weights of one or more graphs. Equal tensors are stored once.

    Args:
        path: The file; it must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file: BinaryIO = path.open("xb")
        self._offsets: dict[bytes, int] = {}
        self._sha256 = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> "DataFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def tensor(self, name: str, values: NDArray[Any], identity: bytes | None = None) -> TensorProto:
        """Make a tensor for a graph beside this file; the values of small tensors are stored in the graph.

        Args:
            name: Its name.
            values: Its values.
            identity: Their `identity_of`, if it is known, as it takes time for large tensors.
        """
        if values.nbytes < _INLINE_BYTES:
            return numpy_helper.from_array(values, name)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        offset = self._place(values, identity_of(values) if identity is None else identity)
        location = {"location": self.name, "offset": str(offset), "length": str(values.nbytes)}
        for key, value in location.items():
            tensor.external_data.add(key=key, value=value)
        return tensor

    def rows(self, name: str, values: NDArray[Any], size: int, identity: bytes | None = None) -> list[TensorProto]:
        """Make tensors of consecutive rows of a matrix, which is stored once, also if another tensor is equal to it.

        Args:
            name: Its name; every tensor adds the number of its first row.
            values: The matrix.
            size: Number of rows of a tensor; the last one has the rest.
            identity: See `tensor`.
        """
        whole, tensors = self.tensor(name, values, identity), []
        offset = next((int(entry.value) for entry in whole.external_data if entry.key == "offset"), None)
        for start in range(0, len(values), size):
            part = values[start : start + size]
            if offset is None:
                tensors.append(numpy_helper.from_array(part, f"{name}.{start}"))
                continue
            tensor = TensorProto(name=f"{name}.{start}", data_type=whole.data_type, dims=part.shape)
            tensor.data_location = TensorProto.EXTERNAL
            begin = offset + start * values.strides[0]
            for key, value in {"location": self.name, "offset": str(begin), "length": str(part.nbytes)}.items():
                tensor.external_data.add(key=key, value=value)
            tensors.append(tensor)
        return tensors

    def _place(self, values: NDArray[Any], identity: bytes) -> int:
        """Write a tensor, unless the file has an equal one; returns its offset."""
        if identity in self._offsets:
            return self._offsets[identity]
        alignment = _LARGE_ALIGNMENT if values.nbytes >= _LARGE_BYTES else _SMALL_ALIGNMENT
        offset = -(-self._size // alignment) * alignment
        self._write(bytes(offset - self._size))
        # ONNX stores little-endian; on little-endian machines this does not copy.
        self._write(values.astype(values.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data)
        self._offsets[identity] = offset
        return offset

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._size += len(content)

    @property
    def record(self) -> FileRecord:
        """Size and SHA-256 of the file so far. It is hashed while it is written and never read again."""
        return FileRecord(self._size, self._sha256.hexdigest())

    def mark(self) -> Mark:
        """This point, for `rewind`."""
        return Mark(self._size, self._sha256.copy())

    def rewind(self, mark: Mark) -> None:
        """Drop all tensors that were written since."""
        self._offsets = {identity: offset for identity, offset in self._offsets.items() if offset < mark.size}
        self._file.seek(mark.size)
        self._file.truncate()
        self._size, self._sha256 = mark.size, mark.sha256.copy()

    def flush(self) -> None:
        """Flush the file, so that a graph beside it can be checked."""
        self._file.flush()


def identity_of(values: NDArray[Any]) -> bytes:
    """SHA-256 over dtype, shape and values, by which equal tensors are stored once.

    The fingerprint of a model hashes the tensors of its repo once more, in `source.weights`: the graph often has other
    values, such as scaled queries, and the two digests start with different headers, so neither can serve for both.
    """
    identity = hashlib.sha256(f"{values.dtype} {values.shape} ".encode())
    identity.update(values.reshape(-1).view(np.uint8).data)
    return identity.digest()

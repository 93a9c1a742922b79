"""Largest pair of the int8 weights in a graph, read from its file: the runtime does without the onnx package.

A manifest may state a bound for pairs of weights, with which the fastest int8 kernels are exact. If its graph has
larger ones, sums saturate without a sign of it, so the weights are checked before such kernels run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Variant
from embedrt.errors import BundleError

# Numbers of the fields and types in onnx.proto.
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OPERATOR = 7, 1, 5, 1, 4
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _KEY, _VALUE, _INT8 = 1, 2, 8, 9, 13, 1, 2, 3
_VARINT, _BYTES, _SIZES = 0, 2, {1: 8, 5: 4}
# Weights are compared so many bytes at a time.
_BLOCK = 1 << 20

_Value = int | memoryview


@dataclass(frozen=True)
class _Matrix:
    """An int8 matrix of the graph.

    Attributes:
        shape: Rows and columns.
        inside: Its values, if they are in the graph.
        location: The file with its values otherwise.
        offset: Their offset in it.
    """

    shape: tuple[int, int]
    inside: memoryview
    location: str
    offset: int


def require_pairs(name: Path, variant: Variant, opened: Path) -> None:
    """Check that the int8 weights of a graph keep to the bound in the manifest.

    Args:
        name: The graph, for messages.
        variant: Its entry in the manifest.
        opened: The path to open it with.

    Raises:
        BundleError: They do not, or the file is damaged.
    """
    if variant.largest_pair is None:
        return
    try:
        matrices = _weights(memoryview(opened.read_bytes()))
        data = None if variant.data is None else opened.with_name(PurePosixPath(variant.data).name)
        found = max((_largest_pair(_values(matrix, data)) for matrix in matrices), default=0)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise BundleError(f"{name}: its int8 weights cannot be read: {error}; get the bundle again") from error
    if found > variant.largest_pair:
        raise BundleError(
            f"{name}: expected int8 weights whose pairs add up to at most {variant.largest_pair}, as in the manifest, "
            f"got {found}; export the model again"
        )


def _largest_pair(weight: NDArray[np.int8]) -> int:
    """The largest sum, in magnitude, of the weights of one sign in two rows."""
    rows = max(2, _BLOCK // weight.shape[1] // 2 * 2)
    largest = 0
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]
        for signed in (np.maximum(part, 0), np.minimum(part, 0)):
            magnitudes = np.abs(signed).view(np.uint8)  # 128 for -128
            first, second = magnitudes[::2], magnitudes[1::2]
            pairs = np.add(first[: len(second)], second, dtype=np.uint16)
            alone = first[len(second) :]
            largest = max(largest, int(pairs.max(initial=0)), int(alone.max(initial=0)))
    return largest


def _values(matrix: _Matrix, data: Path | None) -> NDArray[np.int8]:
    if not matrix.location:
        return np.frombuffer(matrix.inside, np.int8).reshape(matrix.shape)
    if data is None or matrix.location != data.name:
        raise ValueError(f"expected values in {data and data.name}, as in the manifest, got {matrix.location!r}")
    return np.memmap(data, np.int8, "r", matrix.offset, matrix.shape)


def _weights(model: memoryview) -> list[_Matrix]:
    """The int8 matrices of a graph that a node other than Gather reads, or a node of a graph inside it."""
    matrices: dict[str, _Matrix] = {}
    gathered: set[str] = set()
    read: set[str] = set()
    for field, graph in _fields(model):
        for kind, part in _fields(graph) if field == _GRAPH else ():
            if kind == _INITIALIZER:
                name, matrix = _matrix(part)
                if matrix is not None:
                    matrices[name] = matrix
            elif kind == _NODE:
                fields = list(_fields(part))
                inputs = [_text(value) for number, value in fields if number == _INPUT]
                gathers = any(number == _OPERATOR and _text(value) == "Gather" for number, value in fields)
                (gathered if gathers else read).update(inputs)
    return [matrix for name, matrix in matrices.items() if name in read or name not in gathered]


def _matrix(tensor: _Value) -> tuple[str, _Matrix | None]:
    """Name and description of a tensor; None if it is no int8 matrix."""
    name, kind, inside, dims = "", 0, memoryview(b""), list[int]()
    external: dict[str, str] = {}
    for field, value in _fields(tensor):
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif field == _TYPE and isinstance(value, int):
            kind = value
        elif field == _NAME:
            name = _text(value)
        elif field == _RAW and isinstance(value, memoryview):
            inside = value
        elif field == _EXTERNAL:
            entry = dict(_fields(value))
            external[_text(entry[_KEY])] = _text(entry[_VALUE])
    if kind != _INT8 or len(dims) != 2 or not prod(dims):
        return name, None
    return name, _Matrix((dims[0], dims[1]), inside, external.get("location", ""), int(external.get("offset", 0)))


def _text(value: _Value) -> str:
    return bytes(value).decode()


def _fields(message: _Value) -> Iterator[tuple[int, _Value]]:
    """Number and value of each field of a protobuf message."""
    if isinstance(message, int):
        raise TypeError("expected a message, got a number")
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        else:
            size = _SIZES.get(kind, len(message) + 1)
        if at + size > len(message):
            raise ValueError(f"a field ends {at + size - len(message)} bytes behind its message")
        yield key >> 3, message[at : at + size]
        at += size


def _packed(values: memoryview) -> list[int]:
    """Integers that one field holds."""
    found, at = [], 0
    while at < len(values):
        value, at = _varint(values, at)
        found.append(value)
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at

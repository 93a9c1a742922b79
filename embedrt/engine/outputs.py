"""Outputs of a session as float32, whatever dtype the graph has."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine.native import call_native

_BFLOAT16 = "tensor(bfloat16)"


def named(outputs: Sequence[str], arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The arrays of a run as float32, by the names of its outputs."""
    return {name: array.astype(np.float32, copy=False) for name, array in zip(outputs, arrays, strict=True)}


def run_bound(
    session: Any, binding: Any, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]], options: Any
) -> dict[str, NDArray[np.float32]]:
    """Run a session with an IO binding, which may have more inputs, and return its outputs as float32.

    It is the way to outputs in bfloat16, which numpy does not have.

    Raises:
        NativeError: ONNX Runtime failed.
    """
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name in outputs:
        binding.bind_output(name)
    call_native(session.run_with_iobinding, binding, options)
    return named(outputs, [as_array(value) for value in binding.get_outputs()])


def in_bfloat16(session: Any) -> frozenset[str]:
    """The names of the outputs that are bfloat16."""
    return frozenset(value.name for value in session.get_outputs() if value.type == _BFLOAT16)


def as_array(value: Any) -> NDArray[Any]:
    """The array of an OrtValue in host memory; a bfloat16 number is the first half of a float32 one."""
    if value.data_type() != _BFLOAT16:
        array: NDArray[Any] = value.numpy()
        return array
    halves = np.ctypeslib.as_array((ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr()))
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(value.shape())

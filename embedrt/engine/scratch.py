"""`ScratchMemory`: device memory for keys and values, which grows with the batches."""

from types import ModuleType
from typing import Any

import numpy as np

from embedrt.bundle.manifest import Scratch
from embedrt.engine.native import call_native
from embedrt.engine.stream import BLOCK, SCRATCH

# ONNX's number of each dtype, and its bytes.
_DTYPES = {"float32": (1, 4), "float16": (10, 2), "bfloat16": (16, 2)}


class ScratchMemory:
    """Memory for the scratch inputs of one batch at a time.

    Args:
        ort: The module onnxruntime.
        device_type: ONNX Runtime's name of the kind of device, such as "cuda".
        index: The index of the device.
        scratch: Heads and width of keys and values.
        dtype: The graph's dtype.
    """

    def __init__(self, ort: ModuleType, device_type: str, index: int, scratch: Scratch, dtype: str) -> None:
        self._ort = ort
        self._at = device_type, index
        self._element_type, size = _DTYPES[dtype]
        self._block = [BLOCK, scratch.heads, scratch.size]
        self._block_bytes = BLOCK * scratch.heads * scratch.size * size
        self._blocks = 0
        self._memory: list[Any] = []

    def bind(self, binding: Any, blocks: int) -> None:
        """Bind the scratch inputs of a batch, after more memory is allocated if they need it.

        Args:
            binding: The IO binding of the batch.
            blocks: Blocks that the batch needs.

        Raises:
            NativeError: The memory cannot be allocated.
        """
        if blocks > self._blocks:
            more = max(blocks, self._blocks + self._blocks // 2)  # few sizes, as batches come in any order
            self._blocks, self._memory = 0, []  # freed first
            device, index = self._at
            make = self._ort.OrtValue.ortvalue_from_shape_and_type
            self._memory = [call_native(make, [more * self._block_bytes], np.uint8, device, index) for _ in SCRATCH]
            self._blocks = more
        for name, memory in zip(SCRATCH, self._memory, strict=True):
            binding.bind_input(name, *self._at, self._element_type, [blocks, *self._block], memory.data_ptr())

"""Failures of a device and what follows from them: memory is returned, a lost device is left alone."""

import re
from collections.abc import Mapping

from embedrt.engine import Batch, Device
from embedrt.engine.native import NativeError
from embedrt.errors import EngineError, OutOfMemory

# Messages of ONNX Runtime's allocators, of the CUDA libraries and of the C++ runtime.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|bad_?alloc|OUT_OF_MEMORY|ALLOC_FAILED", re.IGNORECASE
)
# CUDA errors after which every call of the process fails: CUDA's codes, names and messages, and ONNX Runtime's own.
_LOST = re.compile(
    r"CUDA (failure|error):? (214|226|70[0-2]|71[0-9]|721)\b"
    r"|cudaError(IllegalAddress|Launch(Failure|Timeout)|Assert|ECCUncorrectable|HardwareStackError|IllegalInstruction"
    r"|MisalignedAddress|InvalidAddressSpace|InvalidPc|Contained)"
    r"|illegal memory access|unspecified launch failure|device-side assert|uncorrectable ECC|misaligned address"
    r"|illegal instruction|launch timed out|DEVICE_RESET|device (was |has been )?reset",
    re.IGNORECASE,
)
# ONNX Runtime's names of memory arenas, by kind of device; a CPU's memory is never short for long.
_ARENAS = {"cuda": "gpu"}
SHRINK = "memory.enable_memory_arena_shrinkage"
"""The run config entry after which a run returns unused memory to the device."""


class Faults:
    """The failures of one engine.

    Args:
        device: The engine's device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lost: str | None = None
        self._short_of_memory = False

    def require_usable(self) -> None:
        """Check that no run has lost the device.

        Raises:
            EngineError: One has; the same error again, without a call of the device.
        """
        if self._lost is not None:
            raise EngineError(self._lost)

    def run_config(self) -> Mapping[str, str]:
        """Make the config entries of the next run: the first one after a lack of memory returns what is not in use."""
        arena = _ARENAS.get(self._device.kind)
        if arena is None or not self._short_of_memory:
            return {}
        self._short_of_memory = False
        return {SHRINK: f"{arena}:{self._device.place or 0}"}

    def error(self, failure: NativeError, batch: Batch) -> EngineError:
        """The error of a batch whose run failed; every later run has the same one if the device is lost."""
        message = str(failure)
        if _LOST.search(message):
            self._lost = (
                f"this process can no longer use the device {self._device.name!r}; restart the process "
                f"(ONNX Runtime failed with: {message})"
            )
            return EngineError(self._lost)
        rows, length = batch.shape
        size = f"{rows} x {length} tokens" if batch.spans is None else f"{rows} texts with {batch.tokens} tokens"
        message = f"ONNX Runtime failed on a batch of {size}: {self._device.with_remedy(message)}"
        if _OUT_OF_MEMORY.search(message):
            self._short_of_memory = True
            return OutOfMemory(message)
        return EngineError(message)

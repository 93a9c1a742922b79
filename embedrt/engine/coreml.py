"""Apple hardware by ONNX Runtime's CoreML provider: programs for static shapes, kept in the user's cache folder.

Written by the documentation of the provider, and not measured.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from embedrt.bundle.check import user_cache
from embedrt.engine import Device, Providers, cpu
from embedrt.engine.session import onnxruntime
from embedrt.errors import ModelNotFoundError

_UNITS = {"ALL": "ALL", "GPU": "CPUAndGPU", "NPU": "CPUAndNeuralEngine", "CPU": "CPUOnly"}
"""The compute units by the names that users type."""


def configure(options: Any, device: Device, dtype: str, threads: int) -> Providers:
    """Compile for one shape of batch, with the kernels of the CPU for what CoreML does not take."""
    options.log_severity_level = 3  # only the log says why the provider did not load
    if device.shape is not None:
        for name, size in zip(("batch", "sequence"), device.shape, strict=True):
            options.add_free_dimension_override_by_name(name, size)
    return [(device.provider, settings(device, cache_folder(device))), (cpu.PROVIDER, {})]


def settings(device: Device, cache: Path | None) -> dict[str, str]:
    """Make the provider options.

    The older model format lacks operators of transformers. Dynamic shapes keep CoreML from using GPU and Neural Engine,
    so nodes that have them run on the CPU.

    Args:
        device: The device.
        cache: The folder for compiled programs; None keeps none, so that each session compiles.
    """
    values = {
        "ModelFormat": "MLProgram",
        "MLComputeUnits": _UNITS[device.place],
        "RequireStaticInputShapes": "1",
        "EnableOnSubgraphs": "0",
    }
    return values if cache is None else {**values, "ModelCacheDirectory": str(cache)}


def cache_folder(device: Device) -> Path | None:
    """The folder for the programs of a graph, shape and version of ONNX Runtime; None if there is no place for it.

    It is never inside the bundle, which does not change when it is used.
    """
    if not device.graph or device.shape is None:
        return None
    rows, length = device.shape
    with suppress(ModelNotFoundError, ValueError, OSError):
        folder = user_cache() / "coreml" / f"{device.graph}-{onnxruntime().__version__}" / f"{rows}x{length}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return None


DEVICE = Device(
    "coreml",
    "CoreMLExecutionProvider",
    configure,
    suffix="|".join(_UNITS),
    first="ALL",
    operators="portable",
    computes={"float32": "float32"},
    compiles=True,
    length_step=64,
)

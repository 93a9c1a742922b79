"""Apple hardware by ONNX Runtime's CoreML provider."""

from typing import Any

from embedrt.engine import Device, Providers, cpu


def configure(options: Any, device: Device, dtype: str, threads: int) -> Providers:
    """Set the provider's options."""
    options.log_severity_level = 3  # only the log says why the provider did not load
    return [(device.provider, {"ModelFormat": "MLProgram"}), (cpu.PROVIDER, {})]


DEVICE = Device("coreml", "CoreMLExecutionProvider", configure)

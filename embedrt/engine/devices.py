"""The table of devices, and the way from a name that users type to one of them."""

import re

from embedrt.engine import Device, coreml, cpu, cuda, openvino
from embedrt.engine.session import onnxruntime
from embedrt.errors import DeviceError

DEVICES = {device.kind: device for device in (cpu.DEVICE, cuda.DEVICE, coreml.DEVICE, openvino.DEVICE)}
_ALIASES = {"mps": "coreml"}
# Names that other libraries use.
_MEANT = {"gpu": "cuda", "nvidia": "cuda", "metal": "coreml"}
AUTO = "auto"


def find_device(name: str | None) -> Device:
    """Look a device up by the name that users type, such as "cpu", "cuda:1", "openvino:GPU" or "auto" (also None).

    "auto" is CUDA where the installed ONNX Runtime has it, else the CPU. The device that it chooses must work: a broken
    CUDA installation is an error, not a reason to compute elsewhere.

    Raises:
        DeviceError: The name is unknown, or the installed ONNX Runtime has no such provider.
    """
    if name is None or name == AUTO:
        has_cuda = cuda.DEVICE.provider in onnxruntime().get_available_providers()
        return DEVICES["cuda"] if has_cuda else DEVICES["cpu"]
    kind, colon, at = name.partition(":") if isinstance(name, str) else ("", "", "")
    device = DEVICES.get(_ALIASES.get(kind, kind))
    if device is None or (colon and not re.fullmatch(device.suffix or r"(?!)", at)) or (colon and kind in _ALIASES):
        meant = f" (did you mean {_MEANT[kind]!r}?)" if kind in _MEANT else ""
        raise DeviceError(
            f"device: {name!r} is unknown{meant}; known: auto, {', '.join(DEVICES)}, cuda:INDEX, openvino:GPU, "
            "openvino:NPU, mps"
        )
    if colon:
        device = device.with_suffix(at)
    if device.require is not None:
        device.require(device)
    else:
        _require_provider(device, str(name))
    return device


def _require_provider(device: Device, name: str) -> None:
    available = onnxruntime().get_available_providers()
    if device.provider not in available:
        raise DeviceError(
            f"device: {name!r} needs {device.provider}, but the installed onnxruntime "
            f"{onnxruntime().__version__} has only {', '.join(available)}; install the wheel that has it "
            "(`pip install 'embedrt[gpu]'` for CUDA, after `pip uninstall onnxruntime`), or use device='cpu'"
        )

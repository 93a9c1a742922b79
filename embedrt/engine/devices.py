"""The table of devices, and the way from a name that users type to one of them."""

import re
from collections.abc import Sequence

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

    "auto" is CUDA where the installed ONNX Runtime has it, else the CPU; never CoreML, which is not measured. It must
    work: a broken CUDA installation is an error, not a reason to compute elsewhere.

    Raises:
        DeviceError: The name is unknown, or the device is not available; the message has the remedy.
    """
    if name is None or name == AUTO:
        has_cuda = cuda.DEVICE.provider in onnxruntime().get_available_providers()
        name = "cuda" if has_cuda else "cpu"
    kind, colon, at = name.partition(":") if isinstance(name, str) else ("", "", "")
    device = DEVICES.get(_ALIASES.get(kind, kind))
    if device is None or (colon and not re.fullmatch(device.suffix or r"(?!)", at)) or (colon and kind in _ALIASES):
        meant = f" (did you mean {_MEANT[kind]!r}?)" if kind in _MEANT else ""
        raise DeviceError(
            f"device: {name!r} is unknown{meant}; known: auto, {', '.join(DEVICES)}, cuda:INDEX, coreml:GPU, "
            "coreml:NPU, openvino:GPU, openvino:NPU, mps"
        )
    if colon:
        device = device.with_suffix(at)
    if device.require is not None:
        device.require(device)
    else:
        _require_provider(device, str(name))
    return device


def find_devices(names: Sequence[str | None]) -> tuple[Device, ...]:
    """Look up devices that share the batches of a model: different devices of one kind.

    Raises:
        ValueError: There is none, one is listed twice, or they are of several kinds.
        DeviceError: See `find_device`.
    """
    if not names:
        raise ValueError("device: expected at least one, as in ['cuda:0', 'cuda:1'], got []")
    devices = tuple(map(find_device, names))
    first = devices[0]
    for position, device in enumerate(devices):
        if device.kind != first.kind:
            raise ValueError(
                f"device[{position}]: expected {first.kind!r} like the first, got {device.name!r}; vectors of "
                "different kinds of devices differ in rounding"
            )
        if any(device.short_name == other.short_name for other in devices[:position]):
            raise ValueError(f"device[{position}]: {device.name!r} is listed twice; list each device once")
    return devices


def _require_provider(device: Device, name: str) -> None:
    available = onnxruntime().get_available_providers()
    if device.provider not in available:
        raise DeviceError(
            f"device: {name!r} needs {device.provider}, but the installed onnxruntime {onnxruntime().__version__} has "
            f"only {', '.join(available)}; the wheel for macOS has it; use device='cpu'"
        )

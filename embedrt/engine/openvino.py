"""OpenVINO as a plug-in of ONNX Runtime, registered once per process: devices and provider options."""

import json
import threading
from functools import cache
from types import ModuleType
from typing import Any

from embedrt.engine import Device, Providers
from embedrt.engine.native import NativeError, call_native
from embedrt.engine.session import onnxruntime
from embedrt.errors import DeviceError

PROVIDER = "OpenVINOExecutionProvider"
PACKAGE = "onnxruntime-ep-openvino"
_REGISTERING = threading.Lock()
# By dtype: OpenVINO's `INFERENCE_PRECISION_HINT`, and the capability of hardware that computes in it. Other hardware
# would fall back to another dtype.
_HINTS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16")}


def offered(ort: ModuleType) -> dict[str, Any]:
    """The devices of the plug-in on this machine by OpenVINO's names, such as "CPU", "GPU.1" and "NPU".

    Args:
        ort: The module onnxruntime.

    Raises:
        DeviceError: The plug-in is not installed, or cannot be loaded.
    """
    with _REGISTERING:  # also finds a library that the program itself registered
        found = _devices(ort)
        if not found:
            _register(ort)
            found = _devices(ort)
    return found


def find_device(ort: ModuleType, target: str) -> Any:
    """Look up ONNX Runtime's description of a device; "GPU" is the first of several.

    Raises:
        DeviceError: The plug-in is not installed, or does not offer the device on this machine.
    """
    found = offered(ort)
    for name, device in found.items():
        if name == target or name.startswith(f"{target}."):
            return device
    vendors = {device.device.vendor for device in ort.get_ep_devices() if device.device.type.name == "CPU"}
    raise DeviceError(
        f"OpenVINO's device {target!r} is not offered by {PACKAGE} on this machine; it offers "
        f"{', '.join(found) or 'none'}, and as of release 1.8.1 supports Intel hardware only (this CPU is from "
        f"{' and '.join(sorted(vendors)) or 'an unknown vendor'}); use device='cpu'"
    )


def capabilities(device: Any) -> list[str]:
    """The number formats of a device in OpenVINO's names, such as "FP32" and "BF16"."""
    return str(device.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "")).split()


def settings(target: str, hint: str, threads: int) -> dict[str, str]:
    """Make the provider options: one request at a time on all threads, in the number format `hint`.

    Args:
        target: OpenVINO's name of the device.
        hint: OpenVINO's `INFERENCE_PRECISION_HINT`. Without it, a CPU with bfloat16 uses that by default.
        threads: The number of CPU threads.
    """
    values = {"INFERENCE_PRECISION_HINT": hint}
    if target == "CPU":
        values |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}
    return {"load_config": json.dumps({target: values})}


def _devices(ort: ModuleType) -> dict[str, Any]:
    return {device.ep_metadata["ov_device"]: device for device in ort.get_ep_devices() if device.ep_name == PROVIDER}


def require(device: Device) -> None:
    """Check that the plug-in offers the device on this machine.

    Raises:
        DeviceError: The device is not available; the message has the remedy.
    """
    try:
        find_device(onnxruntime(), device.place)
    except DeviceError as error:
        raise DeviceError(f"device: {device.name!r}: {error}") from error


def configure(options: Any, device: Device, dtype: str, threads: int) -> Providers:
    """Run the whole graph on one of OpenVINO's devices, in exactly the requested dtype.

    Raises:
        DeviceError: The hardware does not compute in that dtype.
    """
    target = device.place
    description = find_device(onnxruntime(), target)
    hint, capability = _HINTS[dtype]
    if capability not in (known := capabilities(description)):
        raise DeviceError(
            f"OpenVINO's device {target!r} does not compute in {capability} on this machine, only in "
            f"{', '.join(known) or 'unnamed formats'}; use another dtype, or device='cpu'"
        )
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # unsupported nodes are an error
    options.add_provider_for_devices([description], settings(target, hint, threads))
    return []  # the provider is in the session options


# One multi-threaded session has the throughput of several single-threaded ones and a lower latency. Every new batch
# shape costs milliseconds and 0.6 MB that is never freed.
DEVICE = Device(
    "openvino",
    PROVIDER,
    configure,
    require,
    suffix=r"CPU|(?:GPU|NPU)(?:\.\d+)?",
    first="CPU",
    operators="portable",
    computes={"float32": "float32", "bfloat16": "float32"},
    token_budget=1024,
    run_cost=16,
    cores_at=(None, "CPU"),
    length_step=8,
)


@cache
def _register(ort: ModuleType) -> None:
    try:
        import onnxruntime_ep_openvino as package

        call_native(ort.register_execution_provider_library, "embedrt.openvino", package.get_library_path())
    except ImportError as error:
        raise DeviceError(f"{PACKAGE} is not installed; run `pip install 'embedrt[openvino]'`") from error
    except NativeError as failure:
        raise DeviceError(f"ONNX Runtime {ort.__version__} cannot load {PACKAGE}: {failure}") from failure.__cause__

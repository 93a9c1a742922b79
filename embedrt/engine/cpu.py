"""ONNX Runtime's CPU kernels."""

from typing import Any

from embedrt.engine import Device, Providers, int8_saturation
from embedrt.engine.machine import is_x86

PROVIDER = "CPUExecutionProvider"
X86 = "cpu-x86"
"""CPUs of x86-64, in a variant's `devices`: convolutions in blocks of channels have kernels there."""


def configure(options: Any, device: Device, dtype: str, threads: int) -> Providers:
    """Set the options under which this CPU's int8 kernels are exact.

    Raises:
        DeviceError: The dtype is int8, and this CPU's kernels saturate under every option.
    """
    if dtype == "int8":
        for key, value in int8_saturation.exact_config(device.largest_pair).items():
            options.add_session_config_entry(key, value)
    return [(device.provider, {})]


DEVICE = Device(
    "cpu",
    PROVIDER,
    configure,
    subkinds=(X86,) if is_x86() else (),
    token_budget=512,
    run_cost=16,
    parallel=True,
    shrinks="cpu:0",
    cores_at=(None,),
)

"""Devices: each provider's session options, as far as they can be seen without its hardware."""

import pytest

from embedrt.engine import Device, coreml, cuda
from embedrt.engine.devices import DEVICES
from embedrt.engine.session import onnxruntime


def configured(device: Device, dtype: str = "float32") -> list[tuple[str, dict[str, str]]]:
    return device.configure(onnxruntime().SessionOptions(), device, dtype, 2)


def test_the_table_is_by_kind() -> None:
    assert list(DEVICES) == ["cpu", "cuda", "coreml", "openvino"]
    assert all(device.kind == kind == device.name for kind, device in DEVICES.items())


@pytest.mark.parametrize(("at", "index"), [(None, None), ("0", "0"), ("3", "3")])
def test_float32_on_cuda_is_float32(at: str | None, index: str | None) -> None:
    """With TF32, the provider's default, vectors are off by 1e-4."""
    device = cuda.DEVICE if at is None else cuda.DEVICE.with_suffix(at)
    (provider, options), fallback = configured(device)
    assert (provider, fallback) == ("CUDAExecutionProvider", ("CPUExecutionProvider", {}))
    assert options["use_tf32"] == "0"
    assert options.get("device_id") == index


def test_coreml_compiles_programs() -> None:
    assert configured(coreml.DEVICE)[0] == ("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"})

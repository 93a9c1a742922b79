"""Devices: each provider's session options, as far as they can be seen without its hardware."""

import pickle

import pytest

from embedrt.engine import cpu, cuda
from embedrt.engine.devices import DEVICES


@pytest.mark.parametrize("kind", DEVICES)
def test_a_device_goes_to_other_processes(kind: str) -> None:
    assert pickle.loads(pickle.dumps(DEVICES[kind])) == DEVICES[kind]


def test_the_table_is_by_kind() -> None:
    assert list(DEVICES) == ["cpu", "cuda", "coreml", "openvino"]
    assert all(device.kind == kind == device.name for kind, device in DEVICES.items())


@pytest.mark.parametrize(("at", "index"), [(None, None), ("0", None), ("3", "3")])
def test_float32_on_cuda_is_float32(at: str | None, index: str | None) -> None:
    """With TF32, the provider's default, vectors are off by 1e-4."""
    device = cuda.DEVICE if at is None else cuda.DEVICE.with_suffix(at)
    options = cuda.settings(device, "float32")
    assert options["use_tf32"] == "0"
    assert options.get("device_id") == index
    assert "gpu_mem_limit" not in options
    assert [dtype for dtype in device.computes if cuda.settings(device, dtype)["use_tf32"] == "1"] == ["tf32"]


def test_a_limit_on_memory() -> None:
    limited = cuda.DEVICE.with_memory_limit(3 << 30)
    assert cuda.settings(limited, "float16")["gpu_mem_limit"] == "3221225472"
    assert limited.with_suffix("1").memory_limit == 3 << 30
    assert cpu.DEVICE.with_memory_limit(1) == cpu.DEVICE


def test_messages_of_cuda_with_a_remedy() -> None:
    message = "cuDNN is unavailable for CUDA Execution Provider: dlopen failed for libcudnn.so"
    assert cuda.DEVICE.with_remedy(message) == f"{message}; run `pip install 'nvidia-cudnn-cu13~=9.12'`"
    assert cuda.DEVICE.with_remedy("another") == cpu.DEVICE.with_remedy("another") == "another"

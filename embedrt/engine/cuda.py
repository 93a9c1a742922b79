"""NVIDIA GPUs by ONNX Runtime's CUDA provider."""

from typing import Any

from embedrt.engine import Device, Providers, cpu


def configure(options: Any, device: Device, dtype: str, threads: int) -> Providers:
    """Set the provider's options.

    TF32, which the provider uses by default, keeps 10 bits of a float32 mantissa: an error of 1e-4 instead of 2e-7. A
    growing arena doubles its size at every new maximum; asking for exactly the memory that is needed keeps it bounded.
    """
    options.log_severity_level = 3  # only the log says why the provider did not load
    options.intra_op_num_threads = 1  # the CPU computes sizes alone
    # Weights outside of the arena, which could otherwise not return the memory around them.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    settings = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    if device.at is not None:
        settings["device_id"] = device.at
    return [(device.provider, settings), (cpu.PROVIDER, {})]  # shape arithmetic has CPU kernels only


DEVICE = Device(
    "cuda",
    "CUDAExecutionProvider",
    configure,
    suffix=r"\d+",
    workers=2,
    token_budgets=(4096, 8192, 16384, 32768, 65536, 131072),
)

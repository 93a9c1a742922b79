"""NVIDIA GPUs by ONNX Runtime's CUDA provider."""

from typing import Any

from embedrt.engine import Device, Providers, cpu, cuda_setup
from embedrt.errors import DeviceError

_CONTEXT_BYTES = 10**9  # the CUDA context, and the workspaces of its libraries


def configure(options: Any, device: Device, dtype: str, threads: int) -> Providers:
    """Set the options of a session, after its libraries are loaded.

    Raises:
        DeviceError: CUDA or the card is not available, or the card does not compute in the dtype.
    """
    require(device)
    reason = cuda_setup.dtype_problem(cuda_setup.facts(), index(device), dtype)
    if reason is not None:
        raise DeviceError(f"dtype {dtype!r}: {reason}")
    options.log_severity_level = 3  # only the log says why the provider did not load
    options.intra_op_num_threads = 1  # the CPU computes sizes alone
    # Weights outside of the arena, which could otherwise not return the memory around them.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return [(device.provider, settings(device, dtype)), (cpu.PROVIDER, {})]  # shape arithmetic has CPU kernels only


def settings(device: Device, dtype: str) -> dict[str, str]:
    """Make the provider options.

    TF32, which the provider uses by default, keeps 10 bits of a float32 mantissa: an error of 1e-4 instead of 2e-7. A
    growing arena doubles its size at every new maximum; asking for exactly the memory that is needed keeps it bounded.

    Args:
        device: The device.
        dtype: The dtype to compute in.
    """
    values = {"use_tf32": "1" if dtype == "tf32" else "0", "arena_extend_strategy": "kSameAsRequested"}
    if index(device):  # ONNX Runtime logs a warning for an index, also for 0, its default
        values["device_id"] = device.place
    if device.memory_limit is not None:
        values["gpu_mem_limit"] = str(device.memory_limit)
    return values


def require(device: Device) -> None:
    """Check that CUDA works on the card.

    Raises:
        DeviceError: It does not; the message has the remedy.
    """
    reason = cuda_setup.problem(cuda_setup.facts(), index(device))
    if reason is not None:
        raise DeviceError(f"device: {device.name!r}: {reason}, or use device='cpu'")


def memory(device: Device) -> int | None:
    """The bytes that a model may take on the card: the limit, else all but what CUDA itself takes; None if unknown."""
    card = cuda_setup.card(index(device))
    room = [device.memory_limit, None if card is None else card.memory - _CONTEXT_BYTES]
    return min((size for size in room if size is not None), default=None)


def index(device: Device) -> int:
    """The card's index among those that this process sees."""
    return int(device.place)


DEVICE = Device(
    "cuda",
    cuda_setup.PROVIDER,
    configure,
    require,
    suffix=r"\d+",
    first="0",
    computes={"float32": "float32", "tf32": "float32", "float16": "float16", "bfloat16": "bfloat16"},
    token_budgets=(4096, 8192, 16384, 32768, 65536, 131072),
    workers=2,
    limits_memory=True,
    memory=memory,
    remedies=cuda_setup.REMEDIES,
)

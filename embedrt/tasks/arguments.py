"""Validation of arguments that depend on a model, and of those that embedrt does not have."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from embedrt.bundle.manifest import MOST_TOKENS
from embedrt.engine.devices import find_device, find_devices
from embedrt.inputs.values import integer, shown
from embedrt.run.runner import Runner

# Arguments of sentence-transformers that are not available without torch, with the remedy.
_INSTEAD = {
    "modules": "embedrt runs exported models: build it with sentence-transformers, save it, then `embedrt export`",
    "backend": "there is one engine, ONNX Runtime; leave it out, and choose the hardware with device=",
    "model_kwargs": "there is no transformers model; dtype= chooses among the bundle's dtypes",
    "processor_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "tokenizer_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "config_kwargs": "the config is fixed by the export; change it in the repo and export again",
    "keep_in_fp32_modules": "dtype= chooses among the bundle's dtypes",
    "model_card_data": "push_to_hub writes the card from the bundle",
    "convert_to_tensor": "multi-vector embeddings differ in length, so that no tensor holds them; leave it out, or "
    "pass convert_to_numpy=False for a list of tensors",
}


def refuse(**arguments: object) -> None:
    """Raise a ValueError for the first argument that asks for something: that is neither None nor an empty dict."""
    for name, value in arguments.items():
        if value is not None and value != {}:
            raise ValueError(f"{name}: not available in embedrt; {_INSTEAD[name]}")


def deprecated(old: str, new: str) -> None:
    """Emit a DeprecationWarning for an old name, attributed to the caller's caller."""
    warnings.warn(f"{old} is the old name of {new}", DeprecationWarning, stacklevel=3)


def device_name(device: Any) -> str | None:
    """The name of a torch.device; other names unchanged.

    Raises:
        DeviceError: The device is no name.
    """
    name: str | None = str(device) if type(device).__module__ == "torch" else device
    if not isinstance(name, str | None):
        find_device(name)  # raises
    return name


def device_names(devices: Any) -> str | tuple[str | None, ...] | None:
    """The name of a device, or the names of a list of devices.

    Raises:
        DeviceError: A device is no name.
    """
    if isinstance(devices, list | tuple):
        return tuple(map(device_name, devices))
    return device_name(devices)


def are_gpus(names: Sequence[str | None]) -> bool:
    """Return True if the names are those of CUDA devices, which one process drives best.

    Raises:
        ValueError: A GPU is listed twice.
        DeviceError: A GPU is not available.
    """
    if not names or not all(name is not None and name.partition(":")[0] == "cuda" for name in names):
        return False
    find_devices(names)
    return True


def coordinates(value: Any, dim: int) -> int:
    """Validate the number of coordinates to keep, 1 to `dim`."""
    number = integer(value)
    if number is None or not 1 <= number <= dim:
        raise ValueError(f"truncate_dim: expected 1 to {dim} or None, got {shown(value)}")
    return number


def length_for(runner: Runner, value: Any, name: str = "max_seq_length") -> int | None:
    """Validate a maximum number of tokens: room for text, and at most the positions of the route."""
    least, limit = runner.tokenize.special_tokens + 1, runner.route.position_limit
    number = integer(value)
    if value is None:
        fits = limit is None
    else:
        fits = number is not None and least <= number <= (MOST_TOKENS if limit is None else limit)
    if not fits:
        allowed = (
            f"{least} to {MOST_TOKENS}, or None" if limit is None else f"{least} to {limit}, the number of positions"
        )
        raise ValueError(f"{name}: expected {allowed}, got {shown(value)}")
    return number


def passages(spans: Any, text: str) -> list[tuple[int, int]]:
    """Validate character spans (start, end) within a text."""
    if isinstance(spans, str) or not isinstance(spans, Iterable):
        raise TypeError(f"spans: expected pairs (start, end), got {shown(spans)}")
    valid = []
    for i, span in enumerate(spans):
        ends = [integer(end) for end in span] if isinstance(span, (tuple, list)) else []
        start, end = ends if len(ends) == 2 else (None, None)
        if start is None or end is None or not 0 <= start < end <= len(text):
            raise ValueError(f"spans[{i}]: expected (start, end) with 0 <= start < end <= {len(text)}, got {span!r}")
        valid.append((start, end))
    return valid

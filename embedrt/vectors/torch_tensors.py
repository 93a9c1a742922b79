"""Optional torch tensors. torch is imported here only, and only on request."""

from types import ModuleType
from typing import Any

from embedrt.errors import MissingDependencyError


def torch() -> ModuleType:
    """Import torch.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch as module  # noqa: TID251
    except ImportError as error:
        raise MissingDependencyError(
            "convert_to_tensor=True and convert_to_numpy=False return torch tensors, but torch is not installed; leave "
            "them out to get NumPy arrays, or run `pip install torch`"
        ) from error
    loaded: ModuleType = module
    return loaded


def to_tensors(value: Any) -> Any:
    """Convert an array, or lists and dicts of arrays, to torch tensors that share memory."""
    if isinstance(value, list):
        return [to_tensors(item) for item in value]
    if isinstance(value, dict):
        return {name: to_tensors(item) for name, item in value.items()}
    return torch().from_numpy(value)

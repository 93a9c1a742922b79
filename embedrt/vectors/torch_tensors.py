"""The only place where torch is imported, for callers who ask for its tensors."""

from types import ModuleType
from typing import Any

from embedrt.errors import MissingDependencyError


def torch() -> ModuleType:
    """Imports torch.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import torch as module  # noqa: TID251
    except ImportError as error:
        raise MissingDependencyError(
            "convert_to_tensor=True and convert_to_numpy=False give torch tensors, and torch is not installed; leave "
            "them out for numpy arrays, or run `pip install torch`"
        ) from error
    loaded: ModuleType = module
    return loaded


def to_tensors(value: Any) -> Any:
    """Arrays as torch tensors that share their memory: an array, a list of them, or dicts of them."""
    if isinstance(value, list):
        return [to_tensors(item) for item in value]
    if isinstance(value, dict):
        return {name: to_tensors(item) for name, item in value.items()}
    return torch().from_numpy(value)

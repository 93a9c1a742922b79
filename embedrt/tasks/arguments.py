"""Argument validation: each function returns a valid value, or raises an error that names the argument."""

import operator
import warnings
from typing import Any, get_args

import numpy as np

from embedrt.run.runner import Runner

# Arguments of sentence-transformers that are not available without torch, with the remedy.
_INSTEAD = {
    "modules": "embedrt runs exported models: build it with sentence-transformers, save it, then `embedrt export`",
    "backend": "there is one engine, ONNX Runtime; leave it out, and choose the hardware with device=",
    "model_kwargs": "there is no transformers model; dtype= chooses among the bundle's dtypes",
    "processor_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "tokenizer_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "config_kwargs": "the config is fixed by the export; change it in the repo and export again",
    "model_card_data": "push_to_hub writes the card from the bundle",
}


def refuse(**arguments: object) -> None:
    """Raise a ValueError for the first argument that is not None; none of them is available here."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}: not available in embedrt; {_INSTEAD[name]}")


def deprecated(old: str, new: str) -> None:
    """Emit a DeprecationWarning for an old name, attributed to the caller's caller."""
    warnings.warn(f"{old} is the old name of {new}", DeprecationWarning, stacklevel=3)


def integer(value: Any) -> int | None:
    """Convert an integer of Python or NumPy to int; return None for anything else, bool included."""
    if isinstance(value, bool | np.bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def positive(value: Any, name: str) -> int:
    """Validate a positive integer."""
    number = integer(value)
    if number is None or number < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return number


def one_of(value: Any, literal: Any, name: str) -> Any:
    """Validate one of the values of a Literal."""
    if value not in get_args(literal):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, get_args(literal)))}, got {value!r}")
    return value


def device_name(device: Any) -> str | None:
    """The name of a torch.device; other values unchanged."""
    name: str | None = str(device) if type(device).__module__ == "torch" else device
    return name


def coordinates(value: Any, dim: int) -> int:
    """Validate the number of coordinates to keep, 1 to `dim`."""
    number = integer(value)
    if number is None or not 1 <= number <= dim:
        raise ValueError(f"truncate_dim: expected 1 to {dim} or None, got {value!r}")
    return number


def length_for(runner: Runner, value: Any, name: str = "max_seq_length") -> int | None:
    """Validate a maximum number of tokens: room for text, and at most the positions of the route."""
    least, limit = runner.tokenize.special_tokens + 1, runner.route.position_limit
    number = integer(value)
    if value is None:
        fits = limit is None
    else:
        fits = number is not None and least <= number and (limit is None or number <= limit)
    if not fits:
        allowed = f"{least} or more, or None" if limit is None else f"{least} to {limit}, the number of positions"
        raise ValueError(f"{name}: expected {allowed}, got {value!r}")
    return number


def passages(spans: Any, text: str) -> list[tuple[int, int]]:
    """Validate character spans (start, end) within a text."""
    valid = []
    for i, span in enumerate(spans):
        ends = [integer(end) for end in span] if isinstance(span, (tuple, list)) else []
        start, end = ends if len(ends) == 2 else (None, None)
        if start is None or end is None or not 0 <= start < end <= len(text):
            raise ValueError(f"spans[{i}]: expected (start, end) with 0 <= start < end <= {len(text)}, got {span!r}")
        valid.append((start, end))
    return valid

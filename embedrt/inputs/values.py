"""Validation of argument values: each function returns a valid value, or raises an error that names the argument."""

import operator
import re
import reprlib
from typing import Any, get_args

import numpy as np

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def integer(value: Any) -> int | None:
    """Convert an integer of Python or NumPy to int; return None for anything else, bool included."""
    if isinstance(value, bool | np.bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def positive(value: Any, name: str, most: int | None = None) -> int:
    """Validate a positive integer, up to `most` if there is a bound."""
    number = integer(value)
    if number is None or number < 1 or (most is not None and number > most):
        expected = "a positive integer" if most is None or number is None or number < 1 else f"at most {most}"
        raise ValueError(f"{name}: expected {expected}, got {shown(value)}")
    return number


def byte_count(value: Any, name: str) -> int:
    """Validate a number of bytes, or a text with a unit such as "20GB" (10**9 bytes) or "20GiB" (2**30 bytes)."""
    number = integer(value)
    if isinstance(value, str):
        found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([KMG]I?B|)", value.upper())
        number = None if found is None else int(float(found[1]) * _UNITS[found[2]])
    if number is None or number < 1:
        raise ValueError(f"{name}: expected bytes, or a text such as '20GB' or '20GiB', got {shown(value)}")
    return number


def truth(value: Any, name: str) -> bool:
    """Validate a bool of Python or NumPy; other values have a truth value too, but often not the one that was meant."""
    if not isinstance(value, bool | np.bool):
        raise ValueError(f"{name}: expected True or False, got {shown(value)}")  # noqa: TRY004 - as of other values
    return bool(value)


def function(value: Any, name: str) -> None:
    """Validate a function."""
    if not callable(value):
        raise TypeError(f"{name}: expected a function, got {shown(value)}")


def one_of(value: Any, literal: Any, name: str) -> Any:
    """Validate one of the names of a Literal."""
    known = get_args(literal)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {shown(value)}")
    return known[known.index(value)]


def shown(value: Any) -> str:
    """A value as Python writes it, shortened for a message."""
    return _SHORT.repr(value)

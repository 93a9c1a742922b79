"""Failures of libraries, without their native code."""

from collections.abc import Callable
from typing import Any


def failing(error: BaseException, module: str) -> Callable[..., Any]:
    """A function of the module that raises the exception, whatever its arguments."""
    names: dict[str, Any] = {"error": error, "__name__": module}
    exec("def fail(*arguments, **options): raise error", names)
    function: Callable[..., Any] = names["fail"]
    return function

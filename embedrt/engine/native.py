"""Calls into native code: whose exception comes out of one, and the end of a process while others run."""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from threading import Lock, get_ident
from time import monotonic, sleep
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from embedrt.errors import is_raised_by

_Parameters = ParamSpec("_Parameters")
_Returned = TypeVar("_Returned")

_LIBRARIES = frozenset({"onnxruntime", "tokenizers", "pyo3_runtime"})  # the last is the module of a panic in Rust
# Seconds that the end of the process waits for native code of other threads.
_PATIENCE = 30.0
_POLL_SECONDS = 0.001
# The thread that ends this process, once it does.
_closed_by: list[int] = []
_forever = Lock()
_forever.acquire()


class NativeError(Exception):
    """Failure of a library in `call_native`, with its message. Its cause is the library's own exception."""


def call_native(
    function: Callable[_Parameters, _Returned], /, *arguments: _Parameters.args, **options: _Parameters.kwargs
) -> _Returned:
    """Call a function of ONNX Runtime or of the tokenizers.

    A signal handler, or another thread, may raise any exception in the middle of the call. Such an exception belongs to
    the caller's program and passes unchanged; only the library's own failures become a `NativeError`.

    A thread that comes here when the process has begun to end stays here: the interpreter ends such a thread where it
    takes the GIL, and in native code of C++ or Rust that aborts the process.

    Raises:
        NativeError: The library failed.
    """
    if _closed_by and _closed_by[0] != get_ident() and not _is_inside(sys._getframe().f_back):
        park()
    try:
        return function(*arguments, **options)
    except BaseException as error:
        if is_raised_by(_LIBRARIES, error):
            raise NativeError(str(error)) from error
        raise


def is_ending() -> bool:
    """Return True if the process has begun to end, so that other threads may wait in `call_native` for ever."""
    return bool(_closed_by)


def park() -> None:
    """Keep this thread here until the process ends, without the GIL."""
    _forever.acquire()


def stack(top: FrameType | None) -> Iterator[FrameType]:
    """The stack frames of a thread, from the top."""
    while top is not None:
        yield top
        top = top.f_back


def _is_inside(top: FrameType | None) -> bool:
    """Return True if a thread is in native code and is not kept there."""
    codes = {frame.f_code for frame in stack(top)}
    return call_native.__code__ in codes and park.__code__ not in codes


def keep_threads_out() -> None:
    """At the end of the process: let native code of other threads return, and keep them from calling more."""
    _closed_by.append(get_ident())
    deadline = monotonic() + _PATIENCE
    while any(_is_inside(top) for thread, top in sys._current_frames().items() if thread != get_ident()):
        if monotonic() > deadline:
            return
        sleep(_POLL_SECONDS)


def _reopen(*_: Any) -> None:
    _closed_by.clear()


atexit.register(keep_threads_out)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen)

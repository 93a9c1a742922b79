"""Failed writes as errors of embedrt that name target, size and the system's reason."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from embedrt.errors import EmbedrtError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(target: Path, size: int, kind: type[EmbedrtError]) -> Iterator[None]:
    """Turn every failure to write `target` within the block into an error of `kind`.

    Args:
        target: The file that the user named.
        size: Its size in bytes.
        kind: The class of the error.
    """
    try:
        yield
    except BrokenPipeError:  # a reader that stops early, which is no failure
        raise
    except OSError as error:
        raise kind(f"{target}: writing {size} bytes failed: {reason(error)}; {_unchanged(target)}") from error


@contextmanager
def room(target: Path, size: int | Callable[[], int], kind: type[EmbedrtError]) -> Iterator[None]:
    """Turn a full disk within the block, which reads files too, into an error of `kind`; other errors pass through.

    Args:
        target: The folder that the user named.
        size: Its size in bytes, or a function that returns the bytes written so far.
        kind: The class of the error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        needed = f"{size}" if isinstance(size, int) else f"more than {size()}"
        raise kind(f"{target}: writing {needed} bytes failed: {reason(error)}; {_unchanged(target)}") from error


def reason(error: OSError) -> str:
    """The system's reason for a failure, without number and path."""
    return str(error) if error.errno is None else os.strerror(error.errno)


def bytes_in(folder: Path) -> int:
    """The size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unchanged(target: Path) -> str:
    return "what was there is unchanged" if os.path.lexists(target) else "nothing was left there"

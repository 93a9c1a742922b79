"""Advisory locks, which the operating system releases when their process ends, however it ends."""

import os
import sys
from contextlib import suppress
from enum import Enum
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class Lock(Enum):
    """The outcome of an attempt to lock a file or folder."""

    HELD = "held by the caller"
    BUSY = "held by another descriptor"
    UNSUPPORTED = "not possible on this system or file system"


def try_lock(descriptor: int, *, shared: bool = False) -> Lock:
    """Lock an open file or folder without waiting; closing the descriptor releases it.

    Args:
        descriptor: The descriptor; of a file on Windows.
        shared: True for a lock that any number of descriptors can hold; exclusive on Windows.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return Lock.BUSY
    except OSError:
        return Lock.UNSUPPORTED
    return Lock.HELD


def lock_folder(folder: Path, *, shared: bool = False) -> tuple[int | None, Lock]:
    """Open a folder and try to lock it.

    Returns:
        The descriptor, which the caller closes, and the outcome; None if the folder cannot be opened.
    """
    if sys.platform == "win32":
        return None, Lock.UNSUPPORTED
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None, Lock.UNSUPPORTED
    return descriptor, try_lock(descriptor, shared=shared)


def same_file(descriptor: int, path: Path) -> bool:
    """Return True if a path leads to the open file or folder."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False

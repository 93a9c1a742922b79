"""Advisory locks, which the operating system releases when their process ends, however it ends."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


Owner = TypeVar("Owner")


class Folder(Protocol):
    """An open folder, closed at the end of its last reference."""

    def fileno(self) -> int: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


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


def lock_folder(folder: Path, *, shared: bool = False) -> tuple[Folder | None, Lock]:
    """Open a folder and try to lock it.

    Returns:
        The folder, which the caller closes, and the outcome; None if the folder cannot be opened.
    """
    if sys.platform == "win32":
        return None, Lock.UNSUPPORTED
    try:
        opened: Folder = open_owned(folder, os.O_RDONLY | os.O_DIRECTORY, _folder_owner())
    except OSError:
        return None, Lock.UNSUPPORTED
    return opened, try_lock(opened.fileno(), shared=shared)


def open_owned(path: Path, flags: int, owner: Callable[[int], Owner]) -> Owner:
    """Open a file or folder with an object that closes it.

    No interrupt can come between the two, and leave a descriptor that nothing closes: `map` calls one after the other
    in C.

    Args:
        path: The file or folder.
        flags: As `os.open` takes them.
        owner: A class in C that takes over the descriptor, and whose end closes it.
    """
    return next(map(owner, map(os.open, [path], [flags], [0o600])))


def _folder_owner() -> Any:
    """A class in C that owns any descriptor; a file object refuses that of a folder."""
    import select

    return select.epoll.fromfd if sys.platform == "linux" else select.kqueue.fromfd  # type: ignore[attr-defined,unused-ignore]


def same_file(descriptor: int, path: Path) -> bool:
    """Return True if a path leads to the open file or folder."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False

"""Staging folders: files and folders are written there, then published; cleanup after processes that were killed.

A staging folder `.unfinished-KERNEL-RANDOM` is beside its target and contains:

- `lock`, locked by its process. The lock ends with the process, so whoever gets it may delete the folder at once.
- `new`, the files in progress; after an exchange, the bundle that was replaced.
- `old`, the bundle that is being replaced, where the file system cannot exchange two folders; and `target`, its name.
  If the process is killed before the new bundle is in place, the next process puts the old one back.

A loaded model holds a shared lock on the folder of its bundle. A replaced bundle that is still in use stays in its
staging folder until the next process finds it unlocked.

Some network file systems keep locks to one machine without an error. There, a lock does not tell if a process of
another machine is alive. KERNEL names the running kernel, whose processes share their locks. Unless the file system is
on a block device, a folder of another kernel, or on a file system without locks, is deleted only after a day without a
change of any file in it.
"""

import contextlib
import functools
import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from embedrt.bundle.locks import Folder, Lock, lock_folder, open_owned, same_file, try_lock

UNFINISHED = ".unfinished-"
"""The prefix of staging folders."""
_LOCK, _NEW, _OLD, _TARGET = "lock", "new", "old", "target"
# Without a change for so long, a folder is abandoned even if no lock says so.
_ABANDONED_SECONDS = 24 * 3600
# The time between the two renames of an overwrite is far shorter.
_SWAP_SECONDS, _POLL_SECONDS = 2.0, 0.005
# A pipe or a link in place of the lock file is not followed.
_OPEN = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# Another process may take a folder for a leftover between its creation and its lock.
_TRIES = 100
# A folder that is seen neither in place nor set aside so many times in a row is not there.
_MISSES = 5


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Create an empty folder near `target`, for `publish` or `replace_files`; what remains in it is deleted on exit.

    It first deletes what killed processes left beside `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear(target.parent)
    container, lock = _create(target.parent)
    with lock:
        try:
            (container / _NEW).mkdir(0o700)
            yield container / _NEW
        finally:
            _discard(container, lock)


def clear(parent: Path) -> None:
    """Delete what killed processes left in a folder."""
    for leftover in _staging_folders(parent):
        lock, outcome = _take_lock(leftover, create=True)
        if lock is not None:
            with lock:
                if _is_leftover(leftover, outcome):
                    _discard(leftover, lock)


def unfinished(parent: Path) -> list[Path]:
    """Staging folders in `parent` that killed processes left behind, and that no loaded model uses."""
    found = []
    for container in _staging_folders(parent):
        lock, outcome = _take_lock(container, create=False)
        with lock or contextlib.nullcontext():
            if _is_leftover(container, outcome) and not _in_use(container):
                found.append(container)
    return found


def swap(folder: Path, target: Path) -> None:
    """Put the folder of `staging` in the place of `target` by two renames, between which nothing is there."""
    container = folder.parent
    set_aside(target, container)
    try:
        folder.rename(target)
    except OSError:
        put_back(container)
        raise
    (container / _TARGET).unlink()  # who deletes the new bundle does not want the old one back


def set_aside(target: Path, container: Path) -> None:
    """Move what is at `target` into a staging folder, from which `put_back` or `recover` restores it."""
    record = container / _TARGET
    record.write_bytes(os.fsencode(target.name))
    flush(record)
    flush(container)
    target.rename(container / _OLD)


def put_back(container: Path) -> None:
    """Restore what `set_aside` moved into a staging folder, unless something is in its place."""
    name = _set_aside_from(container)
    if name is not None and not os.path.lexists(container.parent / name):
        with contextlib.suppress(OSError):  # another process put a bundle there in between
            (container / _OLD).rename(container.parent / name)
            flush(container.parent)


def recover(target: Path) -> bool:
    """Wait for an overwrite of `target` that is between its two renames, or undo it if its process was killed.

    Returns:
        True if the target is there; the next overwrite may begin at once.
    """
    deadline = time.monotonic() + _SWAP_SECONDS
    misses = 0
    while not os.path.lexists(target):
        containers = [path for path in _staging_folders(target.parent) if _set_aside_from(path) == target.name]
        if not containers:
            misses += 1  # an overwrite may have ended since, and the next one begun
            if misses == _MISSES:
                return False
            continue
        is_late = time.monotonic() > deadline
        for container in containers:
            lock, outcome = _take_lock(container, create=False)
            with lock or contextlib.nullcontext():
                if outcome is Lock.HELD or (outcome is Lock.UNSUPPORTED and is_late):
                    put_back(container)
        if is_late:
            return os.path.lexists(target)
        time.sleep(_POLL_SECONDS)
    return True


def sync(folder: Path) -> None:
    """Flush a folder and everything in it to disk, so that a rename afterwards publishes complete files only."""
    for parent, _, files in os.walk(folder):
        for path in [*(Path(parent) / file for file in files), Path(parent)]:
            flush(path)


def flush(path: Path) -> None:
    """Flush one file, or the entries of one folder, to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders; its file system journals renames
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staging_folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(UNFINISHED) and _is_folder(entry)]
    except (OSError, ValueError):  # a name with a null character
        return []
    return [parent / name for name in sorted(names)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir(follow_symlinks=False)
    return False


def _create(parent: Path) -> tuple[Path, IO[bytes]]:
    """Create a staging folder, locked by this process."""
    for _ in range(_TRIES):
        container = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{_kernel()}-", dir=parent))
        lock, outcome = _take_lock(container, create=True)
        if lock is not None:
            if outcome is not Lock.BUSY:
                return container, lock
            lock.close()
    raise FileExistsError(f"{parent}: other processes delete every new folder in it; try again")


def _take_lock(container: Path, *, create: bool) -> tuple[IO[bytes] | None, Lock]:
    """Open the lock file of a staging folder and try to lock it; None if it does not exist or cannot be opened."""
    path = container / _LOCK
    try:
        lock = open_owned(path, _OPEN | os.O_CREAT * create, functools.partial(io.FileIO, mode="r+"))
    except FileNotFoundError:
        return None, Lock.HELD  # no process has locked it, as far as it is still there
    except OSError:  # of another user, or on a read-only file system
        return None, Lock.BUSY
    outcome = try_lock(lock.fileno())
    if not same_file(lock.fileno(), path):  # deleted by the former holder of the lock
        lock.close()
        return None, Lock.BUSY
    return lock, outcome


def _is_leftover(container: Path, outcome: Lock) -> bool:
    """Decide if the process of a staging folder is gone.

    Args:
        container: The staging folder.
        outcome: The attempt to take its lock.
    """
    if outcome is Lock.BUSY:
        return False
    try:
        own = container.name.startswith(f"{UNFINISHED}{_kernel()}-") or _is_on_block_device(container)
        return (own and outcome is Lock.HELD) or time.time() - _last_change(container) > _ABANDONED_SECONDS
    except FileNotFoundError:  # its process just finished
        return False


def _is_on_block_device(path: Path) -> bool:
    """Return True if a file system is known to be on a block device, which one machine mounts at a time."""
    return sys.platform == "linux" and os.major(path.stat().st_dev) != 0


def _last_change(container: Path) -> float:
    """The latest modification time in a staging folder, without its lock, which other processes create too."""
    paths = [Path(parent) / name for parent, folders, files in os.walk(container) for name in (*folders, *files)]
    changes = [path.lstat().st_mtime for path in paths if path != container / _LOCK]
    return max(changes, default=container.stat().st_mtime)


def _discard(container: Path, lock: IO[bytes]) -> None:
    """Delete a locked staging folder, but for bundles that loaded models use; closes the lock."""
    put_back(container)
    held: list[Folder] = []  # until the files are gone, so that no model opens the folder meanwhile
    try:
        for name in os.listdir(container):  # noqa: PTH208 - a list, as entries are deleted meanwhile
            path = container / name
            opened, outcome = (None, Lock.HELD) if path.is_symlink() else lock_folder(path)
            if opened is not None:
                held.append(opened)
            if outcome is not Lock.BUSY and name != _LOCK:
                _delete(path)
        lock.close()  # Windows cannot delete an open file
        if os.listdir(container) == [_LOCK]:  # noqa: PTH208
            shutil.rmtree(container, ignore_errors=True)
    except FileNotFoundError:
        pass
    finally:
        lock.close()
        for folder in held:
            folder.close()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _in_use(container: Path) -> bool:
    """Return True if a loaded model uses the bundle in a staging folder."""
    folders, outcomes = zip(*(lock_folder(container / name) for name in (_NEW, _OLD)), strict=True)
    for folder in folders:
        if folder is not None:
            folder.close()
    return Lock.BUSY in outcomes


def _set_aside_from(container: Path) -> str | None:
    """The name of the target that a staging folder has the bundle of; None if it has none."""
    record = container / _TARGET
    if record.is_symlink() or not record.is_file() or not os.path.lexists(container / _OLD):
        return None
    name = os.fsdecode(record.read_bytes())
    return name if name and Path(name).name == name else None


@functools.cache
def _kernel() -> str:
    """A short name of the running kernel, the same in all of its containers."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        import platform

        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]

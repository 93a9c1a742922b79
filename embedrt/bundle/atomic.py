"""Atomic publication: finished files and folders are flushed to disk, then take their place in one step."""

import contextlib
import errno
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from embedrt.bundle.manifest import read_bundle, read_manifest
from embedrt.bundle.staging import flush, swap, sync
from embedrt.errors import BundleError

# Arguments of renameat2 and renamex_np.
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
# Errors of systems and file systems that cannot exchange two entries.
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def replace_files(staged: Path, folder: Path) -> None:
    """Move the finished files of a staging folder into `folder`, in alphabetical order.

    Each file replaces an existing one atomically.
    """
    files = sorted(staged.iterdir())
    for file in files:
        file.chmod(_mode(folder / file.name))  # some libraries create files that only the owner can read
    sync(staged)
    for file in files:
        file.replace(folder / file.name)
    flush(folder)


def _mode(path: Path) -> int:
    """The permissions of an existing file, or those of a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666 & ~umask()


def publish(folder: Path, target: Path, *, overwrite: bool = False) -> None:
    """Rename a finished folder of `staging` to `target`, atomically.

    Two processes may publish the same target. The second one keeps the first one's bundle if it is intact and has the
    same fingerprint. With `overwrite`, what is at `target` takes the place of `folder`, and is deleted by `staging`
    once no loaded model uses it. Where the file system cannot exchange two folders, `target` is absent for a moment.

    Raises:
        BundleError: `target` exists and is something else, and `overwrite` is false.
    """
    if overwrite and target.exists():
        _finish(folder)
        os.chmod(folder.parent, 0o777 & ~umask())  # noqa: PTH101 - models of other users may still use what is replaced
        if not exchange(folder, target):
            swap(folder, target)
        flush(folder.parent)
        flush(target.parent)
    elif not place(folder, target) and not _same_vectors(folder, target):
        raise BundleError(
            f"{target} exists and is not an intact bundle of the same model; choose another folder or overwrite it"
        )


def place(folder: Path, target: Path) -> bool:
    """Rename a finished folder of `staging` to `target`, atomically, unless another process was first.

    Returns:
        True if the folder is in place; False if `target` existed.
    """
    _finish(folder)
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False
    flush(target.parent)
    return True


def _finish(folder: Path) -> None:
    """Give a private folder the usual permissions, and flush it to disk."""
    os.chmod(folder, 0o777 & ~umask())  # noqa: PTH101
    sync(folder)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two entries of a file system atomically; False if it cannot.

    Raises:
        OSError: One of them does not exist, or the user may not rename it.
    """
    import ctypes

    paths = os.fsencode(one), os.fsencode(other)
    calls = {
        "linux": ("renameat2", (_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)),
        "darwin": ("renamex_np", (*paths, _RENAME_SWAP)),
    }
    name, arguments = calls.get(sys.platform, ("", ()))
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if function is None:  # Windows, and old libraries
        return False
    failed: int = function(*arguments)
    number = ctypes.get_errno()
    if failed and number not in _NO_EXCHANGE:
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return not failed


def _same_vectors(folder: Path, target: Path) -> bool:
    try:
        return read_bundle(target).fingerprint == read_manifest(folder).fingerprint
    except BundleError:
        return False


def umask() -> int:
    """The process's umask, read without setting it: a change would affect files that other threads create."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    with tempfile.TemporaryDirectory() as folder:  # the mode of a new file shows the umask
        descriptor = os.open(Path(folder) / "file", os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            return 0o666 & ~os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)

"""Atomic writes: files and folders are written to a temporary folder, flushed to disk, and renamed into place."""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from embedrt.bundle.manifest import read_bundle, read_manifest
from embedrt.errors import BundleError

UNFINISHED = ".unfinished-"
"""The prefix of temporary folders."""
# No export takes this long, so an older folder was left behind by a process that was killed.
_STALE_SECONDS = 24 * 3600


def unfinished(parent: Path) -> list[Path]:
    """Temporary folders in `parent` that a killed process left behind."""
    return [path for path in parent.glob(f"{UNFINISHED}*") if _age(path) > _STALE_SECONDS]


def _age(path: Path) -> float:
    """Seconds since the last change; 0 if another process has just removed the folder."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Create a temporary folder beside `target`, for `publish`; its remaining contents are deleted on exit."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in unfinished(target.parent):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    """Rename a finished folder to `target`, atomically.

    Two processes may publish the same target. The second one keeps the first one's bundle if it is intact and has the
    same fingerprint.

    Raises:
        BundleError: `target` exists and is something else, and `overwrite` is false.
    """
    os.chmod(folder, 0o777 & ~umask())  # noqa: PTH101 - mkdtemp made it private
    sync(folder)
    if overwrite and target.exists():
        with staging(target) as retired:
            target.rename(retired / "old")
            try:
                folder.rename(target)
            except OSError:
                (retired / "old").rename(target)
                raise
    else:
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
            if not _same_vectors(folder, target):
                raise BundleError(
                    f"{target} exists and is not an intact bundle of the same model; choose another folder or "
                    "overwrite it"
                ) from None
    flush(target.parent)


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

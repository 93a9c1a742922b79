"""Files and folders that appear whole or not at all: written beside their place, flushed to the disk, renamed."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from embedrt.bundle.manifest import read_bundle, read_manifest
from embedrt.errors import BundleError

UNFINISHED = ".unfinished-"
"""How the names of temporary folders start."""
# No export takes that long; what is older was left by a process that was killed.
_STALE_SECONDS = 24 * 3600


def unfinished(parent: Path) -> list[Path]:
    """Temporary folders below `parent` that a killed process left."""
    return [path for path in parent.glob(f"{UNFINISHED}*") if _age(path) > _STALE_SECONDS]


def _age(path: Path) -> float:
    """Seconds since the last change; none if another process has removed it just now."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A fresh temporary folder beside `target`, for `publish`; what is still in it at the end is deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in unfinished(target.parent):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_files(staged: Path, folder: Path) -> None:
    """Moves the finished files of a staging folder into `folder`, in the order of their names.

    Each replaces the file that is there, whole or not at all.
    """
    files = sorted(staged.iterdir())
    for file in files:
        file.chmod(0o666 & ~umask())  # some libraries make private files
    sync(staged)
    for file in files:
        file.replace(folder / file.name)
    flush(folder)


def publish(folder: Path, target: Path, *, overwrite: bool = False) -> None:
    """Makes a finished folder appear as `target`, whole or not at all.

    Two processes may publish the same target: the second finds the first one's bundle, and if that is of the same
    vector space and sound, leaves it.

    Raises:
        BundleError: Something else is there, and `overwrite` is not set.
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
                    f"{target} exists and is not a sound bundle of the same model; choose another place or overwrite it"
                ) from None
    flush(target.parent)


def _same_vectors(folder: Path, target: Path) -> bool:
    try:
        return read_bundle(target).fingerprint == read_manifest(folder).fingerprint
    except BundleError:
        return False


def umask() -> int:
    """The process's umask, found without changing it, which other threads would notice."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    with tempfile.TemporaryDirectory() as folder:  # as a new file shows it
        descriptor = os.open(Path(folder) / "file", os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            return 0o666 & ~os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)


def sync(folder: Path) -> None:
    """Flushes every file and folder below to the disk, so that a rename after it publishes whole files only."""
    for parent, _, files in os.walk(folder):
        for path in [*(Path(parent) / file for file in files), Path(parent)]:
            flush(path)


def flush(path: Path) -> None:
    """Flushes one file, or the entries of one folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders; its file system journals renames
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

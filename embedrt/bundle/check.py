"""Files of a bundle on disk: kind, size and SHA-256, and a memory of what was verified before.

A file counts as verified while its path, size, modification time and inode are those with which it was hashed. The
memory is one JSON file in the user's cache; without it, files are hashed again.
"""

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from embedrt.bundle.strict_json import RecordError, decode, is_lfs_pointer, read_json
from embedrt.errors import BundleError

Verify = Literal["once", "always", "never"]
"""When files are hashed: when they are new to this machine or changed, at every load, or never (size and kind only)."""

VERIFIED = "verified.json"
# Entries of the memory; the oldest go first.
_MOST = 4096
# A file that was written so shortly ago may be written again without a visible change of its time.
_SETTLED_NS = 2 * 10**9


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle.

    Attributes:
        size: Its size in bytes.
        sha256: Its SHA-256 in hex.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class _Seen:
    """A file as it was when it was hashed."""

    size: int
    mtime_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True)
class _Memory:
    """The contents of `verified.json`: files by absolute path, the latest last."""

    files: dict[str, _Seen]


def user_cache() -> Path:
    """The folder for what embedrt keeps between runs: `EMBEDRT_HOME`, or its part of the user's cache folder."""
    if chosen := os.environ.get("EMBEDRT_HOME"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("embedrt", appauthor=False)


def check_files(folder: Path, files: Mapping[str, FileRecord], verify: Verify) -> None:
    """Checks files against their records.

    Raises:
        BundleError: Names the first file that is missing, of another kind, size or content, and the remedy.
        ValueError: `verify` is unknown.
    """
    if verify not in get_args(Verify):
        raise ValueError(f"verify: expected one of {', '.join(map(repr, get_args(Verify)))}, got {verify!r}")
    known = _read_memory() if verify == "once" else {}
    fresh: dict[str, _Seen] = {}
    for name, record in files.items():
        path = folder / name
        if (size := plain_file_size(folder, name)) != record.size:
            if is_lfs_pointer(path):
                raise BundleError(f"{path}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")
            raise BundleError(f"{path}: {size} bytes, the manifest says {record.size}; get the bundle again")
        if verify == "never":
            continue
        key, before = os.path.abspath(path), path.stat()  # noqa: PTH100 - links above the bundle stay part of its name
        if known.get(key) == _seen(before, record.sha256):
            continue
        started = time.time_ns()
        if (digest := sha256_of(path)) != record.sha256:
            raise BundleError(f"{path}: SHA-256 {digest}, the manifest says {record.sha256}; get the bundle again")
        if _seen(path.stat(), digest) == _seen(before, digest) and started - before.st_mtime_ns > _SETTLED_NS:
            fresh[key] = _seen(before, digest)
    if fresh and verify == "once":
        _write_memory(fresh)


def plain_file_size(folder: Path, name: str) -> int:
    """The size of a file that is neither a link nor reached through one, and that can be opened without hanging.

    Raises:
        BundleError: The file is missing, a link or not a plain file.
    """
    path = folder / name
    for parent in [path, *path.parents][: len(PurePosixPath(name).parts)]:
        if parent.is_symlink():
            raise BundleError(f"{path}: a symlink; bundles hold plain files only, copy the bundle with links resolved")
    try:
        status = path.stat()
    except OSError as error:
        raise BundleError(f"{path}: listed in the manifest, but missing; get the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path}: not a plain file")
    return status.st_size


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seen(status: os.stat_result, sha256: str) -> _Seen:
    return _Seen(status.st_size, status.st_mtime_ns, status.st_ino, sha256)


def _read_memory() -> dict[str, _Seen]:
    """What was verified before; a missing or damaged file is an empty memory."""
    try:
        return decode(_Memory, read_json(user_cache() / VERIFIED), VERIFIED).files
    except (OSError, RecordError):
        return {}


def _write_memory(fresh: dict[str, _Seen]) -> None:
    """Adds entries. Two processes that write at once lose entries of one, which only means hashing again."""
    kept = {path: seen for path, seen in _read_memory().items() if path not in fresh}
    entries = dict(list({**kept, **fresh}.items())[-_MOST:])
    target = user_cache() / VERIFIED
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{VERIFIED}-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(asdict(_Memory(entries)), indent=0).encode())
            Path(name).replace(target)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

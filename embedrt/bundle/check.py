"""Integrity checks of bundle files: file type, size and SHA-256, with a cache of verified files.

A file counts as verified while its path, size, modification time and inode are unchanged since it was hashed. The
cache is one JSON file in the user's cache folder; without it, files are hashed again.
"""

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from embedrt.bundle.strict_json import decode, is_lfs_pointer, read_json
from embedrt.errors import OWN, BundleError, ModelNotFoundError, is_raised_by

Verify = Literal["once", "always", "never"]
"""When to hash files: once per machine until they change, at every load, or never (file type and size only)."""

VERIFIED = "verified.json"
# Maximum number of cache entries; the oldest are dropped first.
_MAX_ENTRIES = 4096
# A file modified this recently may be modified again without a visible change of its modification time.
_SETTLED_NS = 2 * 10**9


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle.

    Attributes:
        size: The size in bytes.
        sha256: The SHA-256 in hex.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Identity:
    """The state of a file that changes whenever the file is replaced or written.

    Attributes:
        device: The device of its file system.
        inode: The number of the file on it.
        size: The size in bytes.
        mtime_ns: The modification time.
        ctime_ns: The time of the last change of file or status; copies of equal age on a reused inode differ in it.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """The identity of a file by its status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class _Seen:
    """The state of a file when it was hashed."""

    size: int
    mtime_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True)
class _Cache:
    """The contents of `verified.json`: files by absolute path, the most recent last."""

    files: dict[str, _Seen]


def user_cache() -> Path:
    """The folder for data that embedrt keeps between runs: `EMBEDRT_HOME`, or `embedrt` in the user's cache folder.

    Raises:
        ModelNotFoundError: The user has no home folder, as in a container whose user id has no entry.
        ValueError: `EMBEDRT_HOME` starts with a "~" that stands for no folder.
    """
    if chosen := os.environ.get("EMBEDRT_HOME"):
        return expanded(chosen)
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("embedrt", appauthor=False)
    except RuntimeError:
        folder = Path("~")
    if folder.parts[0] == "~":  # of some versions, instead of the error
        raise ModelNotFoundError(
            "there is no folder for the local store, because HOME is not set and this user has no home folder; set "
            "EMBEDRT_HOME to a folder, or name a bundle by its path"
        )
    return folder


def expanded(path: str | Path) -> Path:
    """Replace a "~" at the start of a path by the home folder.

    Raises:
        ValueError: There is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home folder; write the path in full") from None


def check_files(
    folder: Path, files: Mapping[str, FileRecord], verify: Verify, root: Path | None = None
) -> dict[str, Identity]:
    """Check files against their records.

    Args:
        folder: The folder of the files.
        files: The records by name.
        verify: When to hash files.
        root: The path of the folder to open files with; None is `folder`, which messages name either way.

    Returns:
        The identity of every file that was checked.

    Raises:
        BundleError: A file is missing, not a plain file, or has another size or SHA-256; the message names the first
            one and the remedy.
        ValueError: `verify` is unknown.
    """
    if verify not in get_args(Verify):
        raise ValueError(f"verify: expected one of {', '.join(map(repr, get_args(Verify)))}, got {verify!r}")
    known = _read_cache() if verify == "once" else {}
    fresh: dict[str, _Seen] = {}
    identities = {}
    for name, record in files.items():
        path, opened = folder / name, (root or folder) / name
        key = os.path.abspath(path)  # noqa: PTH100 - keeps links in parent folders
        try:
            if (size := plain_file_size(folder, name, root)) != record.size:
                if is_lfs_pointer(opened):
                    raise BundleError(f"{path}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")
                raise BundleError(f"{path}: expected {record.size} bytes, got {size}; get the bundle again")
            before = opened.stat()
            identities[name] = Identity.of(before)
            if verify == "never" or known.get(key) == _seen(before, record.sha256):
                continue
            with opened.open("rb") as file:
                started, before = time.time_ns(), os.fstat(file.fileno())
                digest, after = digest_of(file), os.fstat(file.fileno())
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror or error}; get the bundle again") from error
        if digest != record.sha256:
            raise BundleError(f"{path}: expected SHA-256 {record.sha256}, got {digest}; get the bundle again")
        identities[name] = Identity.of(before)
        if Identity.of(after) == Identity.of(before) and started - before.st_mtime_ns > _SETTLED_NS:
            fresh[key] = _seen(before, digest)
    if fresh and verify == "once":
        _write_cache(fresh)
    return identities


def plain_file_size(folder: Path, name: str, root: Path | None = None) -> int:
    """The size in bytes of a plain file, neither a link nor reached through one, nor a pipe that would block.

    Args:
        folder: The bundle, for messages.
        name: The file.
        root: The path of the folder to open files with; None is `folder`.

    Raises:
        BundleError: The file is missing, a link or not a plain file.
    """
    path, opened = folder / name, (root or folder) / name
    for parent in [opened, *opened.parents[: len(PurePosixPath(name).parts) - 1]]:
        if os.path.islink(parent):  # noqa: PTH114 - pathlib raises where a name is too long
            raise BundleError(f"{path}: expected a plain file, got a symlink; copy the bundle with links resolved")
    try:
        status = opened.stat()
    except OSError as error:
        raise BundleError(f"{path}: listed in the manifest, but missing; get the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path}: not a plain file")
    return status.st_size


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return digest_of(file)


def digest_of(file: BufferedReader) -> str:
    """SHA-256 of an open file, in hex."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _seen(status: os.stat_result, sha256: str) -> _Seen:
    return _Seen(status.st_size, status.st_mtime_ns, status.st_ino, sha256)


def _read_cache() -> dict[str, _Seen]:
    """Read the cache of verified files; a missing or damaged one is empty."""
    try:
        return decode(_Cache, read_json(user_cache() / VERIFIED), VERIFIED).files
    except (OSError, ValueError, ModelNotFoundError) as error:
        if not is_raised_by(OWN, error):  # a TimeoutError is an OSError
            raise
        return {}


def _write_cache(fresh: dict[str, _Seen]) -> None:
    """Add entries. If two processes write at once, one loses its entries, whose files are hashed again."""
    kept = {path: seen for path, seen in _read_cache().items() if path not in fresh}
    entries = dict(list({**kept, **fresh}.items())[-_MAX_ENTRIES:])
    try:
        target = user_cache() / VERIFIED
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{VERIFIED}-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(asdict(_Cache(entries)), indent=0).encode())
            Path(name).replace(target)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError, ModelNotFoundError) as error:
        if not is_raised_by(OWN, error):
            raise

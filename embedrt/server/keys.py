"""API keys: read from a file or the environment, compared in constant time, read again when the file changes."""

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_CHECK_SECONDS = 1.0
"""The time between two looks at the file."""

log = logging.getLogger("embedrt.server")


def parse_keys(text: str, source: str) -> tuple[str, ...]:
    """Read keys from text: one on a line; empty lines and lines that start with `#` are skipped.

    Args:
        text: The text.
        source: Its origin, for the message.
    """
    keys = tuple(line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{source}: expected at least one API key on a line of its own, found none")
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"{source}: expected API keys of printable ASCII characters without spaces, key {number} has others"
            )
    return keys


def read_keys(path: Path) -> tuple[str, ...]:
    """Read the keys of a file."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected API keys as text, found other bytes") from error
    return parse_keys(text, str(path))


def digests_of(keys: Iterable[str]) -> tuple[bytes, ...]:
    """The SHA-256 of each key: all of one length, so that a comparison takes the same time for every key."""
    return tuple(sha256(key.encode()).digest() for key in keys)


def is_known(key: bytes, digests: Iterable[bytes]) -> bool:
    """Compare a key with all known ones, without a hint by time at which of them is near."""
    digest = sha256(key).digest()
    known = False
    for other in digests:
        known |= hmac.compare_digest(digest, other)
    return known


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key of a request: `Authorization: Bearer KEY` as OpenAI, TEI and Cohere have it, or Azure's `api-key: KEY`.

    Args:
        headers: Header names in lowercase, and values.
    """
    found = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer" and credentials.strip():
                return credentials.strip()
        elif name == b"api-key":
            found = value.strip() or None
    return found


@dataclass(frozen=True)
class _Version:
    """Facts in which a new version of a file differs, a replaced symbolic link of a mounted secret included."""

    inode: int
    modified: int
    size: int


class Keys:
    """The keys that requests may have.

    Args:
        keys: Keys that stay, as from the environment.
        path: A file of keys, read again within a second after it changed. A file that is gone, empty or damaged leaves
            the keys as they are, and one error in the log.
        clock: The clock, in seconds; a monotonic one.
    """

    def __init__(
        self, keys: Iterable[str] = (), path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = digests_of(keys)
        self._path = path
        self._clock = clock
        self._version = _version(path) if path else None
        self._digests = (*self._fixed, *(digests_of(read_keys(path)) if path else ()))
        self._looked = clock()

    @property
    def required(self) -> bool:
        """True if requests need a key."""
        return bool(self._digests)

    def accept(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return True if a request with these headers may pass."""
        if not self._digests:
            return True
        if self._path is not None and self._clock() - self._looked >= _CHECK_SECONDS:
            self.reload()
        key = key_of(headers)
        return key is not None and is_known(key, self._digests)

    def reload(self) -> None:
        """Read the file again if it changed."""
        if self._path is None:
            return
        self._looked = self._clock()
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            digests = digests_of(read_keys(self._path))
        except (OSError, ValueError) as error:
            log.error("API keys were not reloaded, the old ones stay: %s", error)  # noqa: TRY400 - one line
            return
        self._digests = (*self._fixed, *digests)
        log.info("API keys reloaded: %d", len(self._digests))


def _version(path: Path) -> _Version | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Version(found.st_ino, found.st_mtime_ns, found.st_size)

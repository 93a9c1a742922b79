"""`BundleFiles`: the files of an open bundle, which stay the same while it is in use."""

import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from embedrt.bundle.check import FileRecord, Identity, Verify, check_files, sha256_of
from embedrt.bundle.locks import Folder, lock_folder, same_file
from embedrt.errors import BundleError, EmbedrtError

Made = TypeVar("Made")

TRIES = 20
"""Maximum number of attempts to open a bundle that is replaced meanwhile."""


class BundleFiles:
    """The files of a bundle, for everything that is read after it was opened.

    A file that differs from the one that was checked is an error, never a mixture of two bundles. On Linux the object
    also keeps a descriptor of the folder with a shared lock: files are opened through it, so a model stays complete
    when `embedrt export --overwrite` replaces its bundle. `staging` does not delete a locked bundle. Elsewhere, and on
    file systems without locks, files that a replaced bundle has not read yet are errors.

    Args:
        folder: The bundle.
        opened: The open folder, which this object keeps.

    Attributes:
        folder: The bundle, absolute, for messages.
        root: The path of the folder to open files with.
    """

    def __init__(self, folder: Path, opened: Folder | None = None) -> None:
        self.folder = folder.absolute()
        self.root = self.folder
        self._records: Mapping[str, FileRecord] = {}
        self._identities: dict[str, Identity] = {}
        self._status = _status(self.folder, follow=True)
        self._opened = opened
        if opened is not None:
            self.root = Path(f"/proc/self/fd/{opened.fileno()}")
            self._status = os.fstat(opened.fileno())

    @classmethod
    def open(cls, folder: Path, through: Path | None = None) -> "BundleFiles":
        """Open the folder of a bundle, and keep it where the system can.

        Args:
            folder: The folder.
            through: Another path of it.
        """
        path = folder if through is None else through
        for _ in range(TRIES if sys.platform == "linux" else 0):
            opened, _ = lock_folder(path, shared=True)
            if opened is None:
                break
            if not same_file(opened.fileno(), path):  # replaced before it was locked, and maybe deleted
                continue
            if same_file(opened.fileno(), Path(f"/proc/self/fd/{opened.fileno()}/.")):
                return cls(folder, opened)
            break
        return cls(folder)

    def close(self) -> None:
        """Close the descriptor, which otherwise the end of the last reference does. No method can be called later."""
        if self._opened is not None:
            self._opened.close()

    def check(self, records: Mapping[str, FileRecord], verify: Verify) -> None:
        """Check the files that a manifest lists, and remember them; see `check_files`."""
        self._identities = check_files(self.folder, records, verify, self.root)
        self._records = records

    @property
    def is_replaced(self) -> bool:
        """True if another folder, or none, is where this one was."""
        status = _status(self.folder, follow=True)
        if status is None or self._status is None:
            return status is not self._status
        return not os.path.samestat(status, self._status)

    @property
    def is_kept(self) -> bool:
        """True if files are opened through a descriptor of the folder."""
        return self.root != self.folder

    def load(self, names: Iterable[str], make: Callable[[Path], Made]) -> Made:
        """Make something from files of the bundle.

        Args:
            names: The files.
            make: Called with the folder to open them in; again if the folder is renamed meanwhile.

        Raises:
            BundleError: A file is not the one that was checked.
        """
        names = tuple(names)
        for _ in range(TRIES):
            before = self._state(names)
            try:
                made = make(self.root)
            except (EmbedrtError, FileNotFoundError):
                if self._state(names) == before:
                    raise
                continue
            if self._state(names) == before:
                return made
        raise BundleError(f"{self.folder}: the bundle is replaced time and again; try again")

    def read_bytes(self, name: str) -> bytes:
        """The contents of a file."""
        return self.load([name], lambda root: (root / name).read_bytes())

    def require_unchanged(self) -> None:
        """Check that all files are the ones that were checked when the bundle was opened.

        Raises:
            BundleError: A file is missing or another one.
        """
        self._state(self._records)

    def shared(self) -> "SharedFiles":
        """A description for another process, valid while this object is alive."""
        root = Path(f"/proc/{os.getpid()}/fd/{self.root.name}") if self.is_kept else self.folder
        return SharedFiles(self.folder, root, self._records, self._identities)

    def _state(self, names: Iterable[str]) -> tuple[Path | None, list[Identity | None]]:
        """The place of the folder and the identity of files, which are checked.

        A library may resolve the path of the folder first, and open a file in another folder after that.
        """
        place = None
        with suppress(OSError):  # the descriptor is gone, so the files are too
            place = self.root.readlink() if self.is_kept else None
        return place, [self._checked(name) for name in names]

    def _checked(self, name: str) -> Identity | None:
        """The identity of a file with the contents that were checked; None if no manifest lists it."""
        known = self._identities.get(name)
        found = _status(self.root / name)
        if known is None or (found is not None and Identity.of(found) == known):
            return known
        # Some network file systems number their files anew, and copies of the same file do no harm.
        record = self._records[name]
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != record.size:
            raise self._changed(name, found)
        try:
            digest = sha256_of(self.root / name)
        except OSError as error:
            raise self._changed(name, None) from error
        after = _status(self.root / name)
        if digest != record.sha256 or after is None or Identity.of(after) != Identity.of(found):
            raise self._changed(name, found)
        self._identities[name] = Identity.of(found)
        return self._identities[name]

    def _changed(self, name: str, found: os.stat_result | None) -> BundleError:
        return BundleError(
            f"{self.folder / name}: expected the file that was there when the model was loaded, got "
            f"{'none' if found is None else 'another'}; load the model again"
        )


@dataclass(frozen=True)
class SharedFiles:
    """The files of a bundle that another process has open.

    Attributes:
        folder: The bundle.
        root: The path of the folder through that process.
        records: The files as the manifest lists them.
        identities: The files as they were when that process checked them.
    """

    folder: Path
    root: Path
    records: Mapping[str, FileRecord]
    identities: Mapping[str, Identity]

    def open(self) -> BundleFiles:
        """Open the bundle in this process.

        Raises:
            BundleError: A file is not the one that the other process checked.
        """
        files = BundleFiles.open(self.folder, self.root)
        if not files.is_kept:  # the other process may be out of sight
            files = BundleFiles.open(self.folder)
        files._records = self.records
        files._identities = dict(self.identities)
        files.require_unchanged()
        return files


def _status(path: Path, *, follow: bool = False) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow)
    except OSError:
        return None

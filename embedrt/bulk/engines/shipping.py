"""Bundles as one archive, for workers that cannot read the folder of the job."""

import hashlib
import io
import tarfile
from pathlib import Path

from embedrt.bundle.atomic import place
from embedrt.bundle.staging import staging
from embedrt.hub.local import home

_SHIPPED = "shipped"


def packed(bundle: Path) -> bytes:
    """The files of a bundle as an archive; the same bytes for the same files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(bundle).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return content.getvalue()


def unpacked(archive: bytes | memoryview) -> Path:
    """The folder of a shipped bundle beside the local store, where the first worker of a machine unpacks it.

    Returns:
        The folder. It exists whole, or not at all.
    """
    target = home() / _SHIPPED / hashlib.sha256(archive).hexdigest()[:32]
    if not target.exists():
        with staging(target) as folder, tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
            place(folder, target)  # unless another worker was first: the name stands for the content
    return target

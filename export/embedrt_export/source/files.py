"""Checks of a model folder before its files are read: regular files, not too large, inside the folder."""

import shutil
import stat
from pathlib import Path

from embedrt.bundle.strict_json import RecordError, is_lfs_pointer, read_json
from embedrt.errors import ExportError

MODULES = "modules.json"

# Suffixes of the files that an export reads, and the depths at which they may be.
_SUFFIXES = {".json", ".safetensors", ".txt", ".model", ".metadata", ".pt"}
_DEPTHS = ("*", "*/*", "*/*/*")
# The largest published ones have about 40 MB.
_MAX_TOKENIZER_BYTES = 256 * 2**20


def check_files(folder: Path) -> None:
    """Check that files can be read: a broken link would count as missing, and a pipe would never end.

    Raises:
        ExportError: A link is broken, or a folder, pipe or device has the name of a file; the message names it.
    """
    for path in (path for depth in _DEPTHS for path in folder.glob(depth) if path.suffix in _SUFFIXES):
        name = path.relative_to(folder).as_posix()
        try:
            status = path.stat()
        except OSError as error:
            raise ExportError(f"{name}: cannot be read ({error.strerror}); get the model again") from error
        if not stat.S_ISREG(status.st_mode):
            raise ExportError(
                f"{name}: expected a regular file, found a folder, a pipe or a device; get the model again"
            )
        if path.name == "tokenizer.json":
            if status.st_size > _MAX_TOKENIZER_BYTES:
                raise ExportError(f"{name}: expected at most {_MAX_TOKENIZER_BYTES} bytes, found {status.st_size}")
            if is_lfs_pointer(path):
                raise ExportError(f"{name}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")


def copy_config(folder: Path, name: str, target: Path) -> bool:
    """Copy one JSON file of a model into a bundle.

    Args:
        folder: The model folder.
        name: The file's path in it.
        target: The bundle's folder.

    Returns:
        False, and nothing is copied, for a link that leads out of the model folder, as its target may be private.
        The hub's cache consists of links to its own folder of blobs, which are allowed.

    Raises:
        ExportError: The file is not JSON.
    """
    inside = folder.resolve()
    if inside.parent.name == "snapshots":  # REPO/snapshots/COMMIT, whose links lead to REPO/blobs
        inside = inside.parent.parent
    path = folder / name
    if not path.resolve().is_relative_to(inside):
        return False
    try:
        read_json(path)
    except RecordError as error:
        raise ExportError(f"{name.removesuffix(path.name)}{error}") from error
    (target / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target / name)
    return True

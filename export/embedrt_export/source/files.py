"""Checks of a model folder before its files are read: plain files, not too large, inside the folder."""

import shutil
import stat
from pathlib import Path

from embedrt.bundle.strict_json import RecordError, is_lfs_pointer, read_json
from embedrt.errors import ExportError

MODULES = "modules.json"

# What an export may read. In folders deeper than this there is nothing that it reads.
_SUFFIXES = {".json", ".safetensors", ".txt", ".model"}
_DEPTHS = ("*", "*/*", "*/*/*")
# The largest that are in use have some 40 MB.
_MAX_TOKENIZER_BYTES = 256 * 2**20


def check_files(folder: Path) -> None:
    """Check that files can be read: otherwise they would be taken for missing, or never end.

    Raises:
        ExportError: A link leads nowhere, or something else than a file has the name of one; the message names it.
    """
    for path in (path for depth in _DEPTHS for path in folder.glob(depth) if path.suffix in _SUFFIXES):
        name = path.relative_to(folder).as_posix()
        try:
            status = path.stat()
        except OSError as error:
            raise ExportError(f"{name}: cannot be read ({error.strerror}); get the model again") from error
        if not stat.S_ISREG(status.st_mode):
            raise ExportError(f"{name}: not a plain file, but a folder, a pipe or a device; get the model again")
        if path.name == "tokenizer.json":
            if status.st_size > _MAX_TOKENIZER_BYTES:
                raise ExportError(f"{name}: {status.st_size} bytes, more than the {_MAX_TOKENIZER_BYTES} that are read")
            if is_lfs_pointer(path):
                raise ExportError(f"{name}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")


def copy_config(folder: Path, name: str, target: Path) -> bool:
    """Copy one JSON file of a model into a bundle.

    Args:
        folder: The model folder.
        name: The file's path in it.
        target: The bundle's folder.

    Returns:
        False, and nothing is copied, where a link leads out of the model: what it leads to is not the model's to give.
        The hub's cache is made of such links; there they lead to its own folder of blobs.

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

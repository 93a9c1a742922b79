"""Sources: paths, folders, globs, URLs and saved data sets to files with their formats."""

from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import fs


def open_filesystem(path: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of a path or URL, and the path on it."""
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).absolute())
    found: tuple[Any, str] = fs.FileSystem.from_uri(path)
    return found

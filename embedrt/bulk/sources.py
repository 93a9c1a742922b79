"""Sources: paths, folders, globs, URLs and saved data sets to files with their formats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import fs
from embedrt.bulk.plan import SourceFile


def open_filesystem(path: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of a path or URL, and the path on it."""
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).absolute())
    found: tuple[Any, str] = fs.FileSystem.from_uri(path)
    return found


def state(path: str) -> tuple[int, str]:
    """Size and version of a file."""
    status = Path(path).stat()
    return status.st_size, str(status.st_mtime_ns)


def find(source: Sequence[str], format_: str | None, spool: Path) -> list[SourceFile]:
    """The files of a source, sorted, without their rows."""
    del spool
    found = []
    for one in source:
        path = Path(one)
        for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            found.append(SourceFile(str(file.absolute()), name, format_ or "parquet", *state(str(file))))
    return found

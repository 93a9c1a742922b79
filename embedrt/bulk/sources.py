"""Sources: paths, folders, globs, URLs, standard input and saved data sets, to files with their formats."""

import glob
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from embedrt.bulk.arrow import fs, pa
from embedrt.bulk.formats import FORMATS
from embedrt.bulk.formats.blocks import COMPRESSIONS
from embedrt.bulk.names import printable, without_secrets
from embedrt.bulk.plan import SourceFile
from embedrt.errors import BulkError, MissingDependencyError

ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "lines",
}
"""Formats by the ending of a file, before that of a compression."""
STDIN = "-"
_SPOOLED = "stdin"
_BLOCK = 1 << 20
_COMPRESSIBLE = {"jsonl", "csv", "tsv", "lines"}
_WILD = frozenset("*?[")


def find(source: Sequence[str], source_format: str | None, spool: Path) -> list[SourceFile]:
    """The files of a source, without their rows. Those of a folder or glob are sorted by name.

    Args:
        source: Paths, globs, folders, URLs, folders of `datasets`, or "-" for standard input.
        source_format: The format of all files; None goes by their endings.
        spool: A folder for a copy of standard input, from which a job that was interrupted can go on.

    Raises:
        BulkError: There is no file, or its format is unknown.
        MissingDependencyError: The URL needs a package that is not installed.
    """
    if source_format is not None and source_format not in FORMATS:
        raise BulkError(f"format: expected one of {', '.join(map(repr, FORMATS))}, got {source_format!r}")
    files: list[SourceFile] = []
    for one in source:
        if one == STDIN:
            files.append(_spooled(source_format, spool))
        elif "://" in one:
            files += _remote(one, source_format)
        else:
            files += _local(one, source_format)
    if not files:
        raise BulkError("source: expected a file, folder, glob or URL, got none")
    return files


def state(path: str) -> tuple[int, str]:
    """Size and version of a file.

    Raises:
        FileNotFoundError: The file is not there.
    """
    if "://" not in path:
        status = os.stat(path)  # noqa: PTH116 - it may be a long list
        return status.st_size, str(status.st_mtime_ns)
    filesystem, place = open_filesystem(path)
    info = filesystem.get_file_info(place)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(without_secrets(path))
    return _state_of(filesystem, place, info)


def open_filesystem(path: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of a path or URL, and the path on it.

    Raises:
        BulkError: The URL cannot be used.
        MissingDependencyError: The URL needs a package that is not installed.
    """
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).absolute())
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError):
        return _by_fsspec(path)
    return found


def _by_fsspec(path: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependencyError(
            f"{without_secrets(path)}: fsspec is not installed; run `pip install fsspec`"
        ) from error
    try:
        filesystem, place = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise MissingDependencyError(f"{without_secrets(path)}: {error}") from error
    except ValueError as error:
        raise BulkError(f"{without_secrets(path)}: expected a path or URL, got {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), place


def _local(source: str, source_format: str | None) -> list[SourceFile]:
    path = Path(source)
    if path.is_dir():
        found = [*_data_set(path)] or [*_in_folder(path)]
        if not found:
            raise BulkError(f"{source}: expected files that end with {', '.join(ENDINGS)}, got a folder without any")
        return [_file(str(one.absolute()), one.relative_to(path).as_posix(), source_format) for one in found]
    if path.exists():
        return [_file(str(path.absolute()), path.name, source_format)]
    if not _WILD.intersection(source):
        raise BulkError(f"{source}: missing; expected a file, folder, glob, URL, or - for standard input")
    matches = [Path(one) for one in sorted(glob.glob(source, recursive=True)) if Path(one).is_file()]  # noqa: PTH207
    if not matches:
        raise BulkError(f"{source}: no file matches")
    base = Path(os.path.commonpath([one.parent for one in matches]))
    return [_file(str(one.absolute()), one.relative_to(base).as_posix(), source_format) for one in matches]


def _in_folder(folder: Path) -> Iterator[Path]:
    """The files of a folder with a known ending, in order; hidden ones and their folders are left out."""
    for path in sorted(folder.rglob("*")):
        if _is_wanted(path.relative_to(folder).as_posix()) and path.is_file():
            yield path


def _is_wanted(name: str) -> bool:
    """Decide if a file in a folder is part of a source: its format is known, and it is not hidden."""
    return _format_of(name) is not None and not any(part.startswith((".", "_")) for part in name.split("/"))


def _data_set(folder: Path) -> Iterator[Path]:
    """The files of a folder that `datasets` saved, in order; those of several splits one after the other.

    Raises:
        BulkError: The data set has rows that were chosen by a list of indexes.
    """
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        for name in _json(splits)["splits"]:
            yield from _data_set(folder / name)
    record = folder / "state.json"
    if not (record.is_file() and (folder / "dataset_info.json").is_file()):
        return
    content = _json(record)
    if content.get("_indices_data_files"):
        raise BulkError(f"{folder}: expected a data set without indexes; save dataset.flatten_indices() instead")
    yield from (folder / one["filename"] for one in content["_data_files"])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise BulkError(f"{path}: expected JSON: {error}; save the data set again") from error


def _remote(url: str, source_format: str | None) -> list[SourceFile]:
    """The files of a URL: one file, all files below a folder, or those that match a glob.

    What follows "?" are options of the filesystem, such as the region, which the URL of each file has too.
    """
    base, mark, options = url.partition("?")
    parts = base.split("/")
    wild = next((i for i, part in enumerate(parts) if "*" in part or "[" in part), None)
    root = base if wild is None else "/".join(parts[:wild])
    filesystem, place = open_filesystem(root + mark + options)
    info = filesystem.get_file_info(place)
    if wild is None and info.type == fs.FileType.File:
        return [_file(url, PurePosixPath(place).name, source_format, _state_of(filesystem, place, info))]
    spelled = unquote(root)
    prefix = spelled.removesuffix(place) if spelled.endswith(place) else spelled.partition("://")[0] + "://"
    escape = str if isinstance(filesystem, fs.PyFileSystem) else quote  # fsspec takes paths as they are
    files = []
    found = filesystem.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
    for one in sorted(found, key=lambda one: str(one.path)):
        name = PurePosixPath(one.path).relative_to(place).as_posix()
        is_wanted = _is_wanted(name) if wild is None else _matches(name, "/".join(parts[wild:]))
        if one.type == fs.FileType.File and is_wanted:
            path = prefix + escape(one.path) + mark + options
            files.append(_file(path, name, source_format, _state_of(filesystem, one.path, one)))
    if not files:
        raise BulkError(f"{without_secrets(url)}: no file is there, or none matches")
    return files


def _matches(name: str, pattern: str) -> bool:
    """Match a path against a glob, in which "*" stays within a folder and "**" does not."""
    parts, wanted = name.split("/"), pattern.split("/")
    if "**" in wanted:
        before = wanted.index("**")
        after = len(wanted) - before - 1
        if len(parts) < before + after:
            return False
        parts = [*parts[:before], *parts[len(parts) - after :]]
        wanted.remove("**")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _state_of(filesystem: Any, place: str, info: Any) -> tuple[int, str]:
    """Size and version of a file on another machine: the time of its last change, or its etag."""
    if info.mtime_ns is not None and info.mtime_ns > 0:
        return info.size, str(info.mtime_ns)
    with filesystem.open_input_stream(place, compression=None) as opened:
        metadata = opened.metadata() or {}
    return info.size, str(metadata.get(b"ETag", metadata.get("ETag", b"")))


def _file(path: str, name: str, source_format: str | None, found: tuple[int, str] | None = None) -> SourceFile:
    chosen = source_format or _format_of(name)
    name = printable(name)
    if not _is_utf8(path):
        raise BulkError(f"{name}: expected a path in UTF-8, got other bytes; rename the file or its folder")
    if chosen is None:
        raise BulkError(
            f"{name}: expected an ending of {', '.join(ENDINGS)}, with .gz or .zst after it for text; choose the "
            "format with --source-format"
        )
    size, version = found or state(path)
    return SourceFile(path, name, chosen, size, version, rows=-1)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _format_of(name: str) -> str | None:
    """The format of a file by its ending; None if it is unknown."""
    path = PurePosixPath(name)
    if path.suffix in COMPRESSIONS:
        inner = ENDINGS.get(PurePosixPath(path.stem).suffix.lower())
        return inner if inner in _COMPRESSIBLE else None
    return ENDINGS.get(path.suffix.lower())


def _spooled(source_format: str | None, spool: Path) -> SourceFile:
    """A copy of standard input: lines of JSON if the first one is an object, else lines of text.

    A copy that is there is whole, as it was renamed. The job goes on with it if standard input is the same or empty.
    """
    copy = spool / _SPOOLED
    source = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer
    if copy.exists():
        if source is not None:
            _compare(source, copy)
    elif source is None:
        raise BulkError("source: expected texts on standard input, one per line, but there is none; pass a file")
    else:
        spool.mkdir(parents=True, exist_ok=True)
        partial = spool / f"{_SPOOLED}.{os.getpid()}"
        with partial.open("wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(copy)
    if source_format is None:
        with copy.open("rb") as file:
            source_format = "jsonl" if file.readline(1 << 16).lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "lines"
    return _file(str(copy.absolute()), "standard input", source_format)


def _compare(source: BinaryIO, copy: Path) -> None:
    """Check that standard input is the copy, or empty.

    Raises:
        BulkError: It is not.
    """
    place = 0
    with copy.open("rb") as file:
        while block := source.read(_BLOCK):
            if file.read(len(block)) != block:
                break
            place += len(block)
        else:
            if place in {0, copy.stat().st_size}:
                return
    raise BulkError(
        f"standard input: expected that of the job, got other bytes after {place}; delete {copy.parent} and run with "
        "--restart"
    )

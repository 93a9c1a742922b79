r"""Text files as bytes: opened at an offset after decompression, and read in blocks of whole lines.

Lines end with "\n" or "\r\n". A file that ends with ".gz", ".bz2", ".zst" or ".lz4" is decompressed. The offset of a
piece in it counts bytes after decompression, which have to be read up to there.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bulk.formats.failures import explained

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""Compressions by the ending of a file."""
_BLOCK = 1 << 22
_BLANK = np.frombuffer(b" \t\r\n", np.uint8)

Keep = Callable[[bytes], bool]
"""Function from a line to True if it is a row."""


def open_at(path: str, filesystem: Any, offset: int) -> Any:
    """Open a file at a byte after decompression."""
    compression = next((kind for ending, kind in COMPRESSIONS.items() if path.endswith(ending)), None)
    if compression is None:
        opened = filesystem.open_input_file(path)
        opened.seek(offset)
        return opened
    opened = filesystem.open_input_stream(path, compression=compression)
    while offset and (skipped := len(opened.read(min(offset, _BLOCK)))):
        offset -= skipped
    return opened


def blocks(name: str, path: str, filesystem: Any, offset: int) -> Iterator[bytes]:
    """Blocks of whole lines; the last line may have no end. A byte order mark is not part of the first one.

    Args:
        name: The name of the file, for messages.
        path: The path on the filesystem.
        filesystem: A `pyarrow.fs.FileSystem`.
        offset: The start of a line.
    """
    with explained(name), open_at(path, filesystem, offset) as opened:
        parts: list[bytes] = []
        while block := opened.read(_BLOCK):
            if offset == 0 and not parts:
                block, offset = block.removeprefix(BOM_UTF8), 1
            end = block.rfind(b"\n") + 1
            if end:
                yield b"".join([*parts, block[:end]])
                parts = []
            if end < len(block):
                parts.append(block[end:])
        if parts:
            yield b"".join(parts)


def starts_of(name: str, path: str, filesystem: Any) -> int:
    """The offset of the first line: 3 after a byte order mark, else 0."""
    with explained(name), open_at(path, filesystem, 0) as opened:
        return len(BOM_UTF8) if opened.read(len(BOM_UTF8)) == BOM_UTF8 else 0


def pieces(path: str, filesystem: Any, rows: int, *, skip_blank: bool) -> Iterator[tuple[int, int]]:
    """Split a file of lines into pieces; see `Format`.

    Args:
        path: The path on the filesystem.
        filesystem: A `pyarrow.fs.FileSystem`.
        rows: Lines of a piece, at most.
        skip_blank: Whether blank lines are no rows.
    """
    offset = start = starts_of(path, path, filesystem)
    count = 0
    for block in blocks(path, path, filesystem, offset):
        ends = offset + line_ends(block)
        if skip_blank:
            ends = ends[~_is_blank(block)]
        while count + len(ends) > rows:
            taken = rows - count
            yield rows, start
            start, ends, count = int(ends[taken - 1]) if taken else start, ends[taken:], 0
        count += len(ends)
        offset += len(block)
        if count == rows:
            yield rows, start
            start, count = offset, 0
    if count:
        yield count, start


def line_ends(block: bytes) -> NDArray[np.int64]:
    """The end of each line of a block, with its newline."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")).astype(np.int64) + 1
    return ends if block.endswith(b"\n") or not block else np.append(ends, len(block))


def _is_blank(block: bytes) -> NDArray[np.bool_]:
    """True for each line of a block that has only white space."""
    values, ends = np.frombuffer(block, np.uint8), line_ends(block)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    blank = np.isin(values[starts], _BLANK)
    for line in np.flatnonzero(blank).tolist():
        blank[line] = not block[starts[line] : ends[line]].strip()
    return blank

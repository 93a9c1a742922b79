r"""Texts from a file or from standard input, one per line.

Lines end with "\n" or "\r\n" only: U+2028, vertical tabs and the like are part of a text. The encoding is UTF-8, with
or without a byte order mark.
"""

import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

STDIN = "standard input"


def read_lines(path: Path | None, limit: int | None = None) -> list[str]:
    """Read one text per line, empty lines included.

    Args:
        path: The file; None reads standard input.
        limit: Stop after this many lines.

    Raises:
        ValueError: A line is not UTF-8; the message names file and line.
        OSError: The file cannot be read.
    """
    if path is None:
        if sys.stdin is None:
            raise ValueError(f"{STDIN}: expected texts, one per line, but it is closed; pass texts or a file")
        return list(islice(_decode(sys.stdin.buffer, STDIN), limit))
    with path.open("rb") as file:
        return list(islice(_decode(file, str(path)), limit))


def _decode(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not content:  # nothing but a byte order mark
            return
        try:
            yield content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}:{number}: expected UTF-8, got byte 0x{content[error.start]:02x} at position "
                f"{error.start + 1}; convert the texts to UTF-8, as with `iconv -f latin1 -t utf-8`, one text per line"
            ) from error

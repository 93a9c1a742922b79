"""Standard input, output and error of the command, which may be closed: cron, daemons and `>&-` start it so."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

CLOSED = "standard output is closed; redirect it, or write to a file where the command can"


class _Closed(io.TextIOBase):
    """Standard output that was closed before the start: what is written to it is an error, not lost."""

    def write(self, _: str) -> NoReturn:
        raise ValueError(CLOSED)

    def fileno(self) -> int:
        return 1


@contextmanager
def open_streams() -> Iterator[None]:
    """Let every write to a closed standard output fail, and a closed standard error take everything.

    The three descriptors are opened if they are not: the next file would get their number, and whatever a library
    prints.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may have bytes that are not UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")
    sys.stdout = _Closed() if sys.stdout is None else sys.stdout
    # Not None, where `print` would take standard output instead.
    sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8") if sys.stderr is None else sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def require_output() -> None:
    """Check that standard output is open, for a command whose result goes there.

    Raises:
        ValueError: It is closed.
    """
    if isinstance(sys.stdout, _Closed):
        raise ValueError(CLOSED)  # noqa: TRY004 - not of a type


def decoded(text: str, name: str) -> str:
    """An argument of the command, which must be UTF-8.

    Raises:
        ValueError: It is not; the message has the byte.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        found = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"{text[error.start]!r}"
        raise ValueError(
            f"{name}: expected UTF-8, got {found} at character {error.start}; convert it with iconv, or set the "
            "encoding of the terminal to UTF-8"
        ) from None
    return text


def note(line: str) -> None:
    """Print a line about what was done, which a closed standard output does not make undone."""
    if not isinstance(sys.stdout, _Closed):
        print(line)

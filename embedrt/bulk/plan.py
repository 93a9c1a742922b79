"""The plan of a job: files, and units of their rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One file of the source.

    Attributes:
        path: A path or URL.
        name: The name for messages, relative to the source.
        format: The key in `formats.FORMATS`.
        size: Bytes.
        version: What changes when the file does: modification time in ns, or the etag of a URL.
        rows: The number of rows.
    """

    path: str
    name: str
    format: str
    size: int
    version: str
    rows: int


@dataclass(frozen=True)
class Unit:
    """Rows of one file that become one part. The number fixes the name of the part, and with it the order.

    Attributes:
        number: The number, from 0 on.
        file: The index of the file in the plan.
        start: The first row in the file.
        stop: The row after the last.
        offset: The position of the first row in the file, for formats that have one; else 0.
        first_row: The number of the first row in the whole source.
    """

    number: int
    file: int
    start: int
    stop: int
    offset: int
    first_row: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start

"""The manifest of a job: a line of JSON for every part, appended once the part is in place."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from embedrt.bulk.transform import Facts

PREFIX = "manifest"
"""Every run of a shard has a manifest of its own, since appends of several machines to one file may be lost."""


@dataclass(frozen=True)
class Line:
    """A part that is in place.

    Attributes:
        unit: The number of the unit.
        file: The name of the source file; of several, the first one.
        files: The number of source files.
        start: The first row in the file.
        stop: The row after the last; rows of further files are counted on.
        first_row: The number of the first row in the whole source.
        part: The name of the part.
        size: Bytes of the part.
        mtime_ns: Modification time of the part in ns: a part with this size and time is not hashed again.
        sha256: The hash of the part.
        rows: See `Facts`, as for the next ones.
        written: Rows of the part.
        tokens: Tokens that the model read.
        truncated: Texts that were truncated.
        duplicates: Texts that were not encoded again.
        failed: Rows without a result.
        seconds: Seconds of the model.
        fingerprint: The fingerprint of the vector space.
        versions: The packages that made the part, with versions.
    """

    unit: int
    file: str
    files: int
    start: int
    stop: int
    first_row: int
    part: str
    size: int
    mtime_ns: int
    sha256: str
    rows: int
    written: int
    tokens: int
    truncated: int
    duplicates: int
    failed: int
    seconds: float
    fingerprint: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        """The numbers."""
        return Facts(
            self.rows, self.written, self.tokens, self.truncated, self.duplicates, self.failed, round(self.seconds, 3)
        )


_FIELDS = {one.name for one in fields(Line)}
_TYPES = {one.name: one.type for one in fields(Line) if isinstance(one.type, type)}


def read_lines(folder: Path) -> Iterator[Line]:
    """The lines of every manifest in a folder.

    A line that a killed process or a full disk left incomplete is skipped: its part has the same facts.
    """
    for path in sorted(folder.glob(f"{PREFIX}*.jsonl")):
        with path.open("rb") as lines:
            for raw in lines:
                line = _line(raw)
                if line is not None:
                    yield line


def _line(raw: bytes) -> Line | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(value, dict) or set(value) != _FIELDS:
        return None
    if any(type(value[name]) is not kind for name, kind in _TYPES.items()):
        return None
    if value["unit"] < 0 or Path(value["part"]).name != value["part"]:
        return None
    return Line(**value)


class Writer:
    """Appends lines to a manifest. Safe to use from several threads.

    Args:
        path: The manifest; made at the first line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def append(self, line: Line) -> None:
        """Append a line in one write.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        raw = json.dumps(asdict(line), ensure_ascii=False).encode() + b"\n"
        with self._lock, self._path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:  # after a line that was not finished
                file.seek(end - 1)
                raw = raw if file.read(1) == b"\n" else b"\n" + raw
            written = file.write(raw)
            while written < len(raw):  # the system's error for a disk that is full comes with the next write
                written += file.write(raw[written:])

"""Text files with one text a line, in UTF-8: the column "text"."""

from collections.abc import Iterator, Sequence
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.formats import blocks
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.rows import MESSAGES
from embedrt.bulk.texts import decoded, unreadable

TEXT = "text"
"""The name of the column."""
_BATCH_ROWS = 4096


def pieces(path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
    """See `Format`."""
    return blocks.pieces(path, filesystem, rows, skip_blank=False)


def schema(path: str, filesystem: Any) -> Any:
    """See `Format`."""
    del path, filesystem
    return pa.schema([pa.field(TEXT, pa.string())])


def stream(
    file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
) -> Iterator[Any]:
    """See `Format`."""
    del row, columns
    for block in blocks.blocks(file.name, path, filesystem, offset):
        lines = block.removesuffix(b"\n").split(b"\n")
        for start in range(0, len(lines), _BATCH_ROWS):
            values, messages = decoded([line.removesuffix(b"\r") for line in lines[start : start + _BATCH_ROWS]])
            marked = [unreadable(TEXT, messages[i]) if i in messages else None for i in range(len(values))]
            yield pa.record_batch({TEXT: pa.array(values, pa.string()), MESSAGES: pa.array(marked, pa.string())})

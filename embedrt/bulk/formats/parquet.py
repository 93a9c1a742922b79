"""Parquet files: row groups are read one at a time, in pages."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from embedrt.bulk.arrow import pq
from embedrt.bulk.formats.failures import explained
from embedrt.bulk.formats.groups import pieces_of
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.rows import check_names

# Small batches and buffers; otherwise a whole row group is held in memory.
_BATCH_ROWS, _BUFFER_BYTES = 1024, 1 << 20


def pieces(path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
    """See `Format`. A piece has whole row groups, or a part of one."""
    with explained(path), _open(path, filesystem) as file:
        metadata = file.metadata
        groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        yield from pieces_of(groups, rows)


def schema(path: str, filesystem: Any) -> Any:
    """See `Format`."""
    with explained(path), _open(path, filesystem) as file:
        return file.schema_arrow


def stream(
    file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
) -> Iterator[Any]:
    """See `Format`."""
    del offset
    with explained(file.name), _open(path, filesystem) as opened:
        metadata = opened.metadata
        ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
        groups = [group for group, end in enumerate(ends) if end > row]
        skip = row - (ends[groups[0] - 1] if groups and groups[0] else 0)
        for batch in opened.iter_batches(
            _BATCH_ROWS, row_groups=groups, columns=None if columns is None else list(columns), use_threads=False
        ):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)


def _open(path: str, filesystem: Any) -> Any:
    source = filesystem.open_input_file(path)
    try:
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        check_names(path, file.schema_arrow.names)
    except BaseException:
        source.close()
        raise
    return file

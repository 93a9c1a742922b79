"""Arrow and Feather files, and Arrow streams, as `datasets` saves them. Record batches are read one at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.formats.failures import explained
from embedrt.bulk.formats.groups import pieces_of
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.rows import check_names

_MAGIC = b"ARROW1"


def pieces(path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
    """See `Format`. A piece has whole record batches, or a part of one."""
    with explained(path), _opened(path, filesystem, [0]) as (_, batches):
        yield from pieces_of((batch.num_rows for batch in batches), rows)


def schema(path: str, filesystem: Any) -> Any:
    """See `Format`."""
    with explained(path), _opened(path, filesystem, None) as (found, _):
        return found


def stream(
    file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
) -> Iterator[Any]:
    """See `Format`."""
    del offset
    with explained(file.name):
        places = None
        if columns is not None:
            names = schema(path, filesystem).names
            places = [names.index(name) for name in columns if name in names]
        with _opened(path, filesystem, places) as (_, batches):
            for batch in batches:
                if row < batch.num_rows:
                    yield batch.slice(row)
                row = max(0, row - batch.num_rows)


@contextmanager
def _opened(path: str, filesystem: Any, places: list[int] | None) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema and the record batches of a file, in both formats; not mapped, as mapped pages count as memory."""
    options = pa.ipc.IpcReadOptions(use_threads=False, **({} if places is None else {"included_fields": places}))
    with filesystem.open_input_file(path) as source:
        is_file = source.read(len(_MAGIC)) == _MAGIC
        source.seek(0)
        if is_file:
            file = pa.ipc.open_file(source, options=options)
            check_names(path, file.schema.names)
            yield file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            reader = pa.ipc.open_stream(source, options=options)
            check_names(path, reader.schema.names)
            yield reader.schema, iter(reader)

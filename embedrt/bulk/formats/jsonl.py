"""JSON lines: one object a line. The first lines have the columns and their types; blank lines are skipped."""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.formats import blocks
from embedrt.bulk.formats.failures import explained
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.rows import MESSAGES, check_names
from embedrt.bulk.texts import kind_of, not_utf8, unreadable

_BATCH_ROWS = 4096
# Bytes of the lines from which the types are taken.
_FIRST_BYTES = 1 << 22
_KINDS = {"string": "str", "double": "float", "int64": "int"}


def pieces(path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
    """See `Format`."""
    return blocks.pieces(path, filesystem, rows, skip_blank=True)


def schema(path: str, filesystem: Any) -> Any:
    """See `Format`. Strings that look like times are strings, and columns that are null so far too."""
    objects: list[dict[str, Any]] = []
    read = 0
    for block in blocks.blocks(path, path, filesystem, 0):
        values = [_parsed(line)[0] for line in block.split(b"\n") if line.strip()]
        objects += [value for value in values if value is not None]
        read += len(block)
        if read >= _FIRST_BYTES:
            break
    names = dict.fromkeys(name for value in objects for name in value)
    check_names(path, list(names))
    return pa.schema([pa.field(name, _type_of([value.get(name) for value in objects])) for name in names])


def stream(
    file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
) -> Iterator[Any]:
    """See `Format`."""
    del row
    found = schema(path, filesystem)
    if columns is not None:
        found = pa.schema([found.field(name) for name in columns if name in found.names])
    for block in blocks.blocks(file.name, path, filesystem, offset):
        lines = [line for line in block.split(b"\n") if line.strip()]
        for start in range(0, len(lines), _BATCH_ROWS):
            with explained(file.name):
                yield _batch(lines[start : start + _BATCH_ROWS], found)


def _batch(lines: list[bytes], found: Any) -> Any:
    """The rows of some lines, with a message for each that cannot be read."""
    fields = [*found, pa.field(MESSAGES, pa.string())]
    if (table := _fast(lines, found)) is not None:
        columns = [*table.combine_chunks().columns, pa.nulls(len(lines), pa.string())]
        return pa.table(columns, schema=pa.schema(fields)).to_batches()[0]
    messages: dict[int, str] = {}
    objects: list[Any] = []
    for i, line in enumerate(lines):
        value, message = _parsed(line)
        objects.append(value or {})
        if message is not None:
            messages[i] = unreadable(None, message)
    columns = [_column([value.get(field.name) for value in objects], field, messages) for field in found]
    columns.append(pa.array([messages.get(i) for i in range(len(lines))], pa.string()))
    return pa.record_batch(columns, schema=pa.schema(fields))


def _fast(lines: list[bytes], found: Any) -> Any:
    """The rows of some lines by pyarrow's parser; None if it does not read all of them as they are."""
    from pyarrow import json as parser

    joined = b"\n".join(lines)
    try:
        table = parser.read_json(
            io.BytesIO(joined),
            read_options=parser.ReadOptions(use_threads=False, block_size=len(joined) + 1),
            parse_options=parser.ParseOptions(explicit_schema=found, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except pa.ArrowException:
        return None
    return table if table.num_rows == len(lines) and table.schema.equals(found) else None


def _parsed(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """The object of a line, or a message."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return None, not_utf8(error)
    except ValueError as error:
        return None, f"expected a JSON object, got invalid JSON: {error}"
    except RecursionError:
        return None, "expected a JSON object, got one with too many levels"
    if not isinstance(value, dict):
        return None, f"expected a JSON object, got {kind_of(value)}"
    return value, None


def _column(values: list[Any], field: Any, messages: dict[int, str]) -> Any:
    """An array of values; those of another type are null, with a message."""
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError, ValueError):
        pass
    kept = list(values)
    for i, value in enumerate(values):
        try:
            pa.scalar(value, field.type)
        except UnicodeEncodeError as error:
            message = f"expected text, got a lone surrogate {error.object[error.start]!r}"
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            message = f"expected {_KINDS.get(str(field.type), field.type)}, got {kind_of(value)}"
        else:
            continue
        kept[i] = None
        messages.setdefault(i, unreadable(field.name, message))
    return pa.array(kept, field.type)


def _type_of(values: list[Any]) -> Any:
    """The type of the values of a column: pyarrow's, if it finds one for all of them, else that of the first ones."""
    present = [value for value in values if value is not None]
    while present:
        try:
            found = pa.array(present).type
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
            present = present[: len(present) // 2]
        else:
            return _without_nulls(found)
    return pa.string()


def _without_nulls(kind: Any) -> Any:
    """A type in which strings take the place of what is null so far."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_nulls(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _without_nulls(one.type)) for one in kind])
    return kind

"""Texts of a table: its text columns, joined by a template, with an error for each row that has none."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.options import Meaning
from embedrt.bulk.rows import MESSAGES, Places, RowError
from embedrt.errors import BulkError


@dataclass(frozen=True)
class Reading:
    """The way from columns to texts.

    Attributes:
        columns: The columns, in order.
        parts: The template as pairs of literal text and the column after it, or None at the end; None joins nothing.
        pairs: Whether two columns make pairs.
    """

    columns: tuple[str, ...]
    parts: tuple[tuple[str, str | None], ...] | None = None
    pairs: bool = False


@dataclass(frozen=True)
class Texts:
    """The texts of a table.

    Attributes:
        items: The texts, or the pairs of texts, of the rows that have some.
        rows: The rows of these in the table.
        errors: The errors of the other rows.
    """

    items: list[Any]
    rows: list[int]
    errors: Mapping[int, RowError] = field(default_factory=dict)


def reading_of(meaning: Meaning, schema: Any, *, pairs: bool) -> Reading:
    """The way to read the texts of tables with a schema.

    Args:
        meaning: The options.
        schema: A `pyarrow.Schema`.
        pairs: Whether the model scores pairs.

    Raises:
        BulkError: A column is missing, or the options name too few or too many.
    """
    names = [name for name in schema.names if name != MESSAGES]
    parts = None if meaning.template is None else template_parts(meaning.template)
    columns = meaning.text
    if parts is not None:
        fields = tuple(dict.fromkeys(name for _, name in parts if name is not None))
        if columns and (unknown := [name for name in fields if name not in columns]):
            raise BulkError(
                f"template: expected the fields {_listed(columns)}, got {unknown[0]!r}; add --text {unknown[0]}"
            )
        columns = columns or fields
    elif not columns:
        columns = tuple(field.name for field in schema if field.name != MESSAGES and _is_text(field.type))
        if len(columns) != 1 + pairs:
            raise BulkError(
                f"text: expected {'two text columns' if pairs else 'one text column'}, got {_listed(columns) or 'none'}"
                f" of the columns {_listed(names)}; choose with --text"
            )
    for name in columns:
        if name not in names:
            raise BulkError(f"column {name!r}: missing; the columns are {_listed(names)}")
        if names.count(name) > 1:
            raise BulkError(f"column {name!r}: expected one, got {names.count(name)}; rename one of them")
    if pairs:
        if len(columns) != 2 or parts is not None:
            raise BulkError(
                f"text: expected two columns without a template, query and document, got {_listed(columns)}"
            )
    elif len(columns) != 1 and parts is None:
        joined = "\\n".join(f"{{{name}}}" for name in columns)
        raise BulkError(f'text: expected one column or a template, got {_listed(columns)}; add --template "{joined}"')
    return Reading(columns, parts, pairs)


def template_parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """The literal texts of a template, each with the column after it, or None at the end.

    Raises:
        BulkError: The braces do not match, or a field is more than a column name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BulkError(f"template: {error}, in {template!r}; write {{{{ for a brace") from error
    for _, name, spec, conversion in parsed:
        if name == "" or spec or conversion:
            raise BulkError(f"template: expected column names in braces, got {template!r}; write {{{{ for a brace")
    if not any(name for _, name, _, _ in parsed):
        raise BulkError(f"template: expected a column in braces, such as {{title}}, got {template!r}")
    return tuple((literal, name) for literal, name, _, _ in parsed)


def texts_of(table: Any, reading: Reading, places: Places, first_row: int) -> Texts:
    """Read the texts of a table.

    Args:
        table: A `pyarrow.Table`.
        reading: The way to read them.
        places: The places of the rows, for messages.
        first_row: The first row of the table.
    """
    errors: dict[int, RowError] = {}
    if MESSAGES in table.column_names:
        for row, message in _unreadable(table.column(MESSAGES)):
            column, _, text = message.rpartition("\0")
            errors[row] = places.error(first_row + row, column or None, text)
    columns = {}
    for name in dict.fromkeys(reading.columns):
        values, found = _values(table.column(name))
        for row, message in found.items():
            errors.setdefault(row, places.error(first_row + row, name, message))
        columns[name] = values
    rows = [row for row in range(table.num_rows) if row not in errors] if errors else list(range(table.num_rows))
    return Texts(_items(columns, reading, rows), rows, errors)


def unreadable(column: str | None, message: str) -> str:
    """An entry of the column `MESSAGES`."""
    return f"{column or ''}\0{message}"


def _unreadable(column: Any) -> list[tuple[int, str]]:
    if column.null_count == len(column):
        return []
    return [(row, message) for row, message in enumerate(column.to_pylist()) if message is not None]


def _items(columns: dict[str, list[Any]], reading: Reading, rows: list[int]) -> list[Any]:
    if reading.pairs:
        one, other = (columns[name] for name in reading.columns)
        return [(one[row], other[row]) for row in rows]
    if reading.parts is None:
        values = columns[reading.columns[0]]
        return values if len(rows) == len(values) else [values[row] for row in rows]
    parts = [(literal, None if name is None else columns[name]) for literal, name in reading.parts]
    return ["".join(literal if values is None else literal + values[row] for literal, values in parts) for row in rows]


def _values(column: Any) -> tuple[list[Any], dict[int, str]]:
    """The values of a column, and a message for each row whose value is no str."""
    values: list[Any]
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        return _decoded(column)
    bad = [row for row, value in enumerate(values) if type(value) is not str]
    return values, {row: f"expected str, got {kind_of(values[row])}" for row in bad}


def _decoded(column: Any) -> tuple[list[Any], dict[int, str]]:
    """The values of a column of which some are not UTF-8."""
    wide = pa.types.is_large_string(column.type)
    return decoded(column.cast(pa.large_binary() if wide else pa.binary()).to_pylist())


def decoded(raw: Sequence[bytes | None]) -> tuple[list[str | None], dict[int, str]]:
    """The texts in bytes, and a message for each that is not UTF-8, or null."""
    values: list[str | None] = []
    messages: dict[int, str] = {}
    for row, one in enumerate(raw):
        try:
            values.append(None if one is None else one.decode())
        except UnicodeDecodeError as error:
            values.append(None)
            messages[row] = not_utf8(error)
        if one is None:
            messages[row] = "expected str, got null"
    return values, messages


def not_utf8(error: UnicodeDecodeError) -> str:
    """The message for bytes that are no text."""
    return f"expected UTF-8, got byte 0x{error.object[error.start]:02x} at position {error.start + 1}"


def kind_of(value: Any) -> str:
    """The kind of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    return type(value).__name__


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))

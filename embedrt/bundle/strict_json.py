"""Strict JSON to frozen dataclasses: a missing, unknown or mistyped field is an error that names its path."""

import dataclasses
import json
import math
import re
import stat
import sys
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

MAX_BYTES = 16 * 2**20
# An escape that may be a lone surrogate.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class RecordError(ValueError):
    """A JSON document does not have the expected structure."""


def is_lfs_pointer(path: Path) -> bool:
    """Return True if the file is a Git LFS pointer."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def read_json(path: Path) -> Any:
    """Parse one JSON file, strictly as in `parse_json`.

    Raises:
        RecordError: The file is too large, not a plain file or not strict JSON; the message starts with its name.
        OSError: The file cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block, a device may never end
        raise RecordError(f"{path.name}: not a plain file")
    if status.st_size > MAX_BYTES:
        raise RecordError(f"{path.name}: expected at most {MAX_BYTES} bytes, got {status.st_size}")
    raw = path.read_bytes()
    if raw.startswith(LFS_POINTER):
        raise RecordError(f"{path.name}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")
    return parse_json(raw, path.name)


def parse_json(raw: bytes, where: str) -> Any:
    """Parse JSON. Duplicate keys, NaN, Infinity, lone surrogates and encodings other than UTF-8 are errors.

    Raises:
        RecordError: The document is not strict JSON; the message starts with `where`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            raise RecordError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise RecordError(f"{text} is not a finite number")
        return number

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: not valid JSON: {error}") from error
    if _SURROGATE.search(raw):
        _check_unicode(value, where)
    return value


def _check_unicode(value: Any, where: str) -> None:
    """Check that no string has a lone surrogate, which JSON can express and UTF-8 cannot."""
    left = [(where, value)]
    while left:
        at, item = left.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise RecordError(f"{at}: expected valid Unicode, got a lone surrogate in {item[:60]!r}") from None
        elif isinstance(item, list):
            left += [(f"{at}[{i}]", child) for i, child in enumerate(item)]
        elif isinstance(item, dict):
            left += [(at, key) for key in item]
            left += [(f"{at}.{_printable(key)}", child) for key, child in item.items()]


def _printable(text: str) -> str:
    """A string with its lone surrogates escaped, so that a message with it can be written anywhere."""
    return text.encode(errors="backslashreplace").decode()


def decode(kind: type[Record], value: Any, where: str) -> Record:
    """Decode parsed JSON into a dataclass of scalars, None, Literal, tuple[X, ...], dict[str, X] and dataclasses.

    In a union of dataclasses, the field `kind` chooses the member; it is a Literal with one value in each.

    Args:
        kind: The dataclass.
        value: The parsed JSON.
        where: The name of the document for messages, such as its file name.

    Raises:
        RecordError: A field is missing, unknown or mistyped; the message has its path, the expected type and the
            value.
    """
    decoded: Record = _decode(kind, value, where)
    return decoded


def _decode(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911, PLR0912 - one branch per type
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise _mismatch(where, value, f"one of {', '.join(map(repr, arguments))}")
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        return _decode_member([a for a in arguments if a is not types.NoneType], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(where, value, "a list")
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(where, value, "an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value, where)
    if kind is float and type(value) in {int, float}:
        if not abs(value) <= sys.float_info.max:  # NaN compares as False
            raise _mismatch(where, value, "a finite number")
        return float(value)
    if type(value) is not kind:
        raise _mismatch(where, value, {str: "a string", int: "an integer", float: "a number", bool: "a boolean"}[kind])
    return value


def _decode_member(members: list[Any], value: Any, where: str) -> Any:
    """Decode one of several dataclasses, chosen by its field `kind`, or the only member of an optional type."""
    if len(members) == 1:
        return _decode(members[0], value, where)
    if not isinstance(value, dict):
        raise _mismatch(where, value, "an object")
    if "kind" not in value:
        raise RecordError(f"{where}: missing field 'kind'")
    by_kind = {get_args(get_type_hints(member)["kind"])[0]: member for member in members}
    name = value["kind"]
    if not isinstance(name, str) or name not in by_kind:
        raise _mismatch(f"{where}.kind", name, f"one of {', '.join(map(repr, by_kind))}")
    return _decode_record(by_kind[name], value, where)


def _decode_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(where, value, "an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise RecordError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(fields)}")
    hints = get_type_hints(kind)
    given = {}
    for name, field in fields.items():
        if name in value:
            given[name] = _decode(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecordError(f"{where}: missing field {name!r}")
    return kind(**given)


def _mismatch(where: str, value: Any, expected: str) -> RecordError:
    shown = "null" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
    return RecordError(f"{where}: expected {expected}, got {shown}")

"""Decoding of JSON into the types of requests."""

import re
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from embedrt.inputs.values import shown
from embedrt.server.errors import RequestError

_WRONG_VALUE = "Invalid enum value "


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decoded(kind: Any, body: bytes | msgspec.Raw, place: str = "") -> Any:
    """The body of a request, or a part of one, as a type.

    Args:
        kind: The type, for msgspec.
        body: The JSON.
        place: The place of the part in the body, for messages.

    Raises:
        RequestError: It is no JSON, or of another type; the message has the field and the index of the bad item.
    """
    try:
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `$")
        path = (place + at.rstrip("`")).lstrip(".")
        if message.startswith(_WRONG_VALUE) and (choices := _choices(kind, path)):
            value = message[len(_WRONG_VALUE) :].strip("'")
            message = f"expected {choices}, got {shown(value)}"
        else:
            message = message.replace("`", "").replace(" | ", " or ")
            message = message[:1].lower() + message[1:300]
        index = re.search(r"\[(\d+)\]", path)
        raise RequestError(
            f"{path}: {message}" if path else message,
            param=re.split(r"[.\[]", path)[0] or None,
            index=int(index[1]) if index else None,
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is no valid JSON: {error}", code="invalid_json") from error


def _choices(kind: Any, path: str) -> str:
    """The values that a field may have, for a message; empty if its type is not found."""
    name = re.split(r"[.\[]", path)[0]
    waiting: list[Any] = [get_type_hints(kind).get(name)] if isinstance(kind, type) else []
    found: list[str] = []
    while waiting:
        one = waiting.pop(0)
        if get_origin(one) is Literal:
            found += map(repr, get_args(one))
        else:
            waiting += get_args(one)
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))

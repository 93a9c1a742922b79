"""Decoding of JSON into the types of requests."""

import re
from functools import cache
from typing import Any

import msgspec

from embedrt.server.errors import RequestError


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
        message = message.replace("`", "").replace(" | ", " or ")
        message = message[:1].lower() + message[1:]
        index = re.search(r"\[(\d+)\]", path)
        raise RequestError(
            f"{path}: {message}" if path else message,
            param=re.split(r"[.\[]", path)[0] or None,
            index=int(index[1]) if index else None,
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is no valid JSON: {error}", code="invalid_json") from error

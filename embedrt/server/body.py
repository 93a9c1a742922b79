"""Read the body of a request: in a bounded size and time."""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import Receive

from embedrt.server.errors import RequestError

_LEAST_RATE = 16 * 1024
"""Bytes a second that extend the deadline of a body: whoever sends faster may send for longer."""


class Disconnected(Exception):  # noqa: N818 - an event, not a failure
    """The client closed the connection before its request was whole."""


def declared_length(headers: Iterable[tuple[bytes, bytes]], limit: int) -> int | None:
    """Check the headers that concern the body, and return its length if they have it.

    Args:
        headers: Header names in lowercase, and values.
        limit: The largest body in bytes.
    """
    length = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value)  # the parser of the connection lets digits pass only
            if length > limit:
                raise _too_large(limit)
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise RequestError("content-encoding: expected none, found another; send the body as it is", "media_type")
    return length


async def read_body(receive: Receive, headers: Iterable[tuple[bytes, bytes]], limit: int, seconds: float) -> bytes:
    """Read a body, or fail as soon as it is too large or too slow.

    Args:
        receive: Of ASGI.
        headers: Header names in lowercase, and values.
        limit: The largest body in bytes.
        seconds: The time for a body that hardly grows; each 16 KiB extend it by a second.
    """
    declared_length(headers, limit)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(deadline) as timeout:
            while True:
                event: Any = await receive()
                if event["type"] == "http.disconnect":
                    raise Disconnected
                part = event.get("body", b"")
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                if not event.get("more_body", False):
                    return b"".join([*parts, part]) if parts else part
                parts.append(part)
                timeout.reschedule(deadline + size / _LEAST_RATE)
    except TimeoutError:
        message = f"the body did not come within {seconds:g} s; send it faster"
        raise RequestError(message, "timeout", code="slow_body", retry_after=1) from None


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than the {limit} bytes that are allowed; send fewer texts", "too_large")

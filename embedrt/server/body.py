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


class Bodies:
    """The bytes of all bodies in memory: many large requests at once may not take more than a bounded part of it.

    Args:
        most: The most bytes.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0


class Share:
    """The part of one request.

    Args:
        bodies: All bodies.
    """

    __slots__ = ("_bodies", "_used")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._used = 0

    def take(self, size: int) -> None:
        """Count bytes of the body.

        Raises:
            RequestError: There is no room for them.
        """
        self._used += size
        self._bodies.used += size
        if self._bodies.used > self._bodies.most:
            message = "the bodies of all requests are too large together; try again"
            raise RequestError(message, "overloaded", retry_after=1)

    def free(self) -> None:
        """The request has ended."""
        self._bodies.used -= self._used
        self._used = 0


async def read_body(
    receive: Receive, headers: Iterable[tuple[bytes, bytes]], limit: int, seconds: float, share: Share
) -> bytes:
    """Read a body, or fail as soon as it is too large or too slow.

    Args:
        receive: Of ASGI.
        headers: Header names in lowercase, and values.
        limit: The largest body in bytes.
        seconds: The time for a body that hardly grows; each 16 KiB extend it by a second.
        share: The part of the request in the memory for bodies.

    Raises:
        RequestError: The body is too large or too slow, or encoded, or there is no memory for it.
        Disconnected: The client closed the connection.
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
                share.take(len(part))
                if not event.get("more_body", False):
                    return b"".join([*parts, part]) if parts else part
                parts.append(part)
                timeout.reschedule(deadline + size / _LEAST_RATE)
    except TimeoutError:
        message = f"the body did not come within {seconds:g} s; send it faster"
        raise RequestError(message, "timeout", code="slow_body", retry_after=1) from None


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than the {limit} bytes that are allowed; send fewer texts", "too_large")

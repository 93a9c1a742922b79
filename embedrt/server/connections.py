"""Connections over HTTP/1.1 with deadlines: slow, silent and vanished clients cost a bounded time and memory."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

_LEAST_RATE = 1024
"""Bytes a second that a client must read of a reply that waits for it."""

_UPGRADE = re.compile(rb"\r\nupgrade:(?=[ \t]*h2c)", re.IGNORECASE)
_NO_UPGRADE = b"\r\nx-h2c-no:"

_REPLY = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of each connection, and of their number.

    Attributes:
        header_seconds: Time for all headers of a request.
        header_bytes: Size of all headers of a request.
        write_seconds: Time in which a client must read at least 1 KiB for each second, else the connection is aborted.
        linger_seconds: Time in which the rest of a body is discarded after its request was answered with an error, so
            that the client reads the answer.
        connections: Number of connections. Another one ends the one that has waited longest for a request; if all of
            them have one, it is answered with status 503.
    """

    header_seconds: float = 10.0
    header_bytes: int = 64 * 1024
    write_seconds: float = 30.0
    linger_seconds: float = 30.0
    connections: int = 1000


@dataclass
class Traffic:
    """State that all connections share.

    Attributes:
        draining: True from the beginning of a shutdown on: each connection ends after its reply.
        idle: The connections that wait for a request, longest first.
        none_left: Set when the last connection has ended.
        refused: Number of connections answered with 503.
        timed_out: Number of connections that a deadline ended.
    """

    draining: bool = False
    idle: dict["Connection", None] = field(default_factory=dict)
    none_left: asyncio.Event = field(default_factory=asyncio.Event)
    refused: int = 0
    timed_out: int = 0


class Connection(HttpToolsProtocol):
    """A connection with the deadlines that the protocol of uvicorn lacks.

    Args:
        limits: Its limits.
        traffic: The state of all connections.
        config: Of uvicorn, as the others.
        server_state: Of uvicorn.
        app_state: Of uvicorn.
        _loop: Of uvicorn.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        traffic: Traffic,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = limits
        self.traffic = traffic
        self._in_headers = True
        self._header_bytes = 0
        self._has_body = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._make_room():
            self.traffic.refused += 1
            self._refuse(b"503 Service Unavailable", b"too many connections")
            return
        self.traffic.idle[self] = None
        self._header_timer = self.loop.call_later(self.limits.header_seconds, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.traffic.idle.pop(self, None)
        self._header_timer = _cancelled(self._header_timer)
        self._write_timer = _cancelled(self._write_timer)
        self._linger_timer = _cancelled(self._linger_timer)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if not self.connections:
            self.traffic.none_left.set()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        if self._in_headers and b"h2c" in data:
            # The parser skips the body of a request to upgrade, which Java's client sends with every first request.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(_NO_UPGRADE, head) + end + rest
        self._has_body = False
        super().data_received(data)
        if self._has_body or self.transport.is_closing():
            return
        # Headers, or what may stand around the chunks of a body: the parser has no limit for them.
        self._header_bytes += len(data)
        if self._header_bytes > self.limits.header_bytes:
            self._refuse(b"431 Request Header Fields Too Large", b"request headers are too large")
        elif self._in_headers and self._header_timer is None and self._header_bytes:
            self._header_timer = self.loop.call_later(self.limits.header_seconds, self._headers_are_late)

    def on_headers_complete(self) -> None:
        """Begin a request."""
        self._in_headers = False
        self._header_timer = _cancelled(self._header_timer)
        self.traffic.idle.pop(self, None)
        super().on_headers_complete()
        if self.traffic.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._has_body = True
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._in_headers = True
        self._has_body = True
        self._header_bytes = 0
        super().on_message_complete()
        if self._linger_timer is not None:
            self._linger_timer = _cancelled(self._linger_timer)
            self._wait_for_request()

    def on_response_complete(self) -> None:
        """End a reply; if the body of its request is still on its way, discard the rest for a while."""
        body_is_late = not self.pipeline and not self._in_headers
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()
        elif body_is_late:
            self._unset_keepalive_if_required()
            self._linger_timer = self.loop.call_later(self.limits.linger_seconds, self._end)
        elif self.timeout_keep_alive_task is not None:
            self.traffic.idle[self] = None

    def pause_writing(self) -> None:
        """Begin to wait for a client that reads slowly."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client has read most of the reply."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._write_timer = _cancelled(self._write_timer)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection without a next request."""
        self._end()

    def shutdown(self) -> None:
        """End the connection now if it has no request, else after the reply."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._end()

    def _make_room(self) -> bool:
        """End the connection that has waited longest for a request."""
        oldest = next(iter(self.traffic.idle), None)
        if oldest is None:
            return False
        oldest.transport.abort()
        self.traffic.idle.pop(oldest)
        self.connections.discard(oldest)
        return True

    def _wait_for_request(self) -> None:
        self.traffic.idle[self] = None
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self.cycle is not None and not self.cycle.response_complete:  # the headers are those of the next request
            self._header_timer = self.loop.call_later(self.limits.header_seconds, self._headers_are_late)
            return
        self.traffic.timed_out += 1
        if self._header_bytes:
            self._refuse(b"408 Request Timeout", b"request headers are incomplete")
        else:
            self._end()

    def _refuse(self, status: bytes, message: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(_REPLY % (status, len(message), message))
        self._end()

    def _end(self) -> None:
        """Close the connection; the client has a bounded time to read what was written."""
        self.traffic.idle.pop(self, None)
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_writing()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left and self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self._check_writing, left)

    def _check_writing(self, before: int) -> None:
        """Abort the connection if the client has hardly read."""
        self._write_timer = None
        left = self.transport.get_write_buffer_size()
        if left and before - left < _LEAST_RATE * self.limits.write_seconds:
            self.traffic.timed_out += 1
            self.transport.abort()
        elif left:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self._check_writing, left)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer, if there is one; the result is always None."""
    if timer is not None:
        timer.cancel()
    return None

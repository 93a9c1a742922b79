"""The ASGI application: from a request to the handler of its route, and from a reply or an error to the client."""

import asyncio
import logging
import re
from collections.abc import Sequence
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from embedrt._version import __version__
from embedrt.server.dialects import ENDPOINTS
from embedrt.server.endpoint import Endpoint, Exchange, Reply
from embedrt.server.errors import RequestError
from embedrt.server.models import Models
from embedrt.server.settings import Settings

logger = logging.getLogger("embedrt.server")

# A client that leaves is noticed once a request has taken so long: to watch for it costs as much as a short request.
_WATCH_SECONDS = 0.02
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# Indexes of truncated texts that a header lists.
_LISTED = 100


class State:
    """What all requests share; a reload replaces it in one step.

    Attributes:
        settings: The configuration.
        models: The open models.
        ready: True while the server takes requests.
    """

    def __init__(self, settings: Settings, models: Models) -> None:
        self.settings = settings
        self.models = models
        self.ready = True


class Handling:
    """The ASGI application of one endpoint.

    Args:
        endpoint: The endpoint.
        state: What all requests share.
    """

    def __init__(self, endpoint: Endpoint, state: State) -> None:
        self._endpoint = endpoint
        self._state = state
        self._decode = None if endpoint.body is None else msgspec.json.Decoder(endpoint.body).decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = monotonic()
        state = self._state
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = Exchange(
            _request_id(headers.get("x-request-id")),
            scope["path"],
            headers,
            scope["query_string"].decode("latin-1"),
            state.models,
            state.settings,
        )
        watch = _Watch(receive)
        try:
            reply = await self._reply(exchange, receive, watch)
        except asyncio.CancelledError:
            if watch.left:  # the client has gone, and with it the request
                return
            raise
        finally:
            watch.stop()
        await _send(reply, exchange, started, send, timings=self._endpoint.dialect.timings)

    async def _reply(self, exchange: Exchange, receive: Receive, watch: "_Watch") -> Reply:
        endpoint = self._endpoint
        try:
            body = None
            if self._decode is not None:
                body = self._decoded(await _read(receive, exchange.settings.limits.body_bytes))
            watch.start()
            try:
                async with asyncio.timeout(exchange.settings.limits.request_seconds):
                    return await endpoint.handler(body, exchange)
            except TimeoutError as error:
                raise RequestError("the request took too long", "timeout", retry_after=1) from error
        except RequestError as error:
            return endpoint.dialect.error(error)
        except Exception:
            logger.exception("%s failed, request %s", exchange.path, exchange.request_id)
            return endpoint.dialect.error(RequestError("the server failed; its log has the reason", "backend"))

    def _decoded(self, body: bytes) -> object:
        try:
            return self._decode(body)  # type: ignore[misc]  # it has a decoder
        except msgspec.ValidationError as error:
            message, _, at = str(error).partition(" - at `$")
            path = at.rstrip("`").lstrip(".")
            index = re.search(r"\[(\d+)\]", path)
            raise RequestError(
                f"{path}: {message}" if path else message,
                param=re.split(r"[.\[]", path)[0] or None,
                index=int(index[1]) if index else None,
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"the body is no valid JSON: {error}", code="invalid_json") from error


class _Watch:
    """Cancels the task of a request once its client has gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.left = False

    def start(self) -> None:
        """Watch from a moment later on; the body has been read."""
        loop, request = asyncio.get_running_loop(), asyncio.current_task()
        if request is not None:
            self._timer = loop.call_later(_WATCH_SECONDS, self._begin, loop, request)

    def _begin(self, loop: asyncio.AbstractEventLoop, request: asyncio.Task[Any]) -> None:
        self._task = loop.create_task(self._until_gone(request))

    async def _until_gone(self, request: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        request.cancel()

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def _read(receive: Receive, most: int) -> bytes:
    """The body of a request."""
    blocks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client has gone")
        block = message.get("body", b"")
        size += len(block)
        if size > most:
            raise RequestError(f"the body is larger than the {most} bytes that are allowed", "too_large")
        blocks.append(block)
        if not message.get("more_body", False):
            return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else uuid4().hex


async def _send(reply: Reply, exchange: Exchange, started: float, send: Send, *, timings: bool) -> None:
    notes = exchange.notes
    headers = [
        (b"content-type", reply.media_type.encode("latin-1")),
        (b"content-length", str(sum(map(len, reply.body))).encode("latin-1")),
        (b"x-request-id", exchange.request_id.encode("latin-1")),
    ]
    if notes.model:
        headers.append((b"x-embedrt-model", notes.model.encode("ascii", "replace")))
    if notes.truncated:
        listed = ",".join(map(str, notes.truncated[:_LISTED]))
        headers.append((b"x-embedrt-truncated", str(len(notes.truncated)).encode("latin-1")))
        headers.append((b"x-embedrt-truncated-indexes", listed.encode("latin-1")))
    if timings:
        headers.extend(_timings(exchange, monotonic() - started))
    headers.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items())
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    last = len(reply.body) - 1
    if last < 0:
        await send({"type": "http.response.body", "body": b""})
    for i, block in enumerate(reply.body):
        await send({"type": "http.response.body", "body": block, "more_body": i < last})


def _timings(exchange: Exchange, seconds: float) -> list[tuple[bytes, bytes]]:
    """TEI's headers, in milliseconds."""
    notes = exchange.notes
    values = {
        b"x-compute-type": "cpu",
        b"x-compute-time": f"{seconds * 1000:.0f}",
        b"x-compute-characters": str(notes.characters),
        b"x-compute-tokens": str(notes.tokens),
        b"x-total-time": f"{seconds * 1000:.0f}",
        b"x-tokenization-time": f"{notes.tokenize_seconds * 1000:.0f}",
        b"x-queue-time": f"{notes.queue_seconds * 1000:.0f}",
        b"x-inference-time": f"{notes.engine_seconds * 1000:.0f}",
    }
    return [(name, value.encode("latin-1")) for name, value in values.items()]


def make_application(state: State, endpoints: Sequence[Endpoint] = ENDPOINTS) -> ASGIApp:
    """The ASGI application of a server.

    Args:
        state: The configuration and the open models.
        endpoints: The routes.
    """
    routes = [
        Route(path, Handling(endpoint, state), methods=[endpoint.method])
        for endpoint in endpoints
        for path in (endpoint.path, *endpoint.also)
    ]
    application = Starlette(routes=routes)
    application.state.version = __version__
    return application

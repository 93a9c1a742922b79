"""The ASGI application: from a request to the handler of its route, and from a reply or an error to the client."""

import asyncio
import dataclasses
import logging
import re
from collections.abc import Sequence
from itertools import count
from secrets import token_hex
from time import monotonic
from typing import Any

import msgspec
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedrt.server.body import Bodies, Disconnected, Share, read_body
from embedrt.server.cross_origin import allow_origins
from embedrt.server.decoding import decoded
from embedrt.server.dialects import openai
from embedrt.server.endpoint import Endpoint, Exchange, Reply
from embedrt.server.errors import Kind, RequestError
from embedrt.server.keys import Keys
from embedrt.server.models import Models
from embedrt.server.observers import GONE, Ended, Observer
from embedrt.server.routes import routes
from embedrt.server.settings import Settings

logger = logging.getLogger("embedrt.server")

# A client that leaves is noticed once a request has taken so long: to watch for it costs as much as a short request.
_WATCH_SECONDS = 0.02
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# Ids that are made here: of the process, and of the request in it. To ask the system for each takes longer.
_PROCESS, _NUMBERS = token_hex(10), count()
# Indexes of truncated texts that a header lists.
_LISTED = 100
# Names of unknown fields that are logged, and the largest body in which they are looked for.
_MOST_UNKNOWN, _SMALL_BODY = 100, 16 * 1024
# Bodies of the largest size that all requests together may have in memory, and the least bytes for it.
_BODIES, _LEAST_BODIES = 8, 256 * 2**20
_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class State:
    """State that all requests share; a reload replaces its parts in one step.

    Attributes:
        settings: The configuration.
        models: The open models.
        keys: The API keys.
        observers: Called with every request that has ended: metrics, the access log, traces.
        bodies: The memory for bodies of requests without a reply yet.
        ready: True while the server takes requests.
        in_flight: Number of requests without a reply yet.
        unknown_fields: Names of fields that no route knows, of those that were logged.
    """

    def __init__(
        self, settings: Settings, models: Models, keys: Keys | None = None, observers: Sequence[Observer] = ()
    ) -> None:
        self.settings = settings
        self.models = models
        self.keys = Keys(settings.keys, settings.key_file) if keys is None else keys
        self.observers = tuple(observers)
        self.bodies = Bodies(max(_BODIES * settings.limits.body_bytes, _LEAST_BODIES))
        self.ready = True
        self.in_flight = 0
        self.unknown_fields: set[str] = set()


class Handling:
    """The ASGI application of one endpoint.

    Args:
        endpoint: The endpoint.
        state: What all requests share.
    """

    def __init__(self, endpoint: Endpoint, state: State) -> None:
        self._endpoint = endpoint
        self._state = state
        self._fields = _fields_of(endpoint.body)

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
        watch, share = _Watch(receive), Share(state.bodies)
        state.in_flight += 1
        status, failure = GONE, None
        try:
            endpoint, reply, failure = await self._reply(exchange, scope, receive, watch, share)
            watch.stop()
            await _send(reply, exchange, started, send, timings=endpoint.dialect.timings)
            status = reply.status
        except Disconnected:
            return
        except asyncio.CancelledError:
            if not watch.left:  # the server ends
                raise
        finally:
            watch.stop()
            share.free()
            state.in_flight -= 1
            ended = Ended(exchange, self._endpoint, scope, status, failure, started, monotonic() - started)
            for observe in state.observers:
                observe(ended)

    async def _reply(
        self, exchange: Exchange, scope: Scope, receive: Receive, watch: "_Watch", share: Share
    ) -> tuple[Endpoint, Reply, RequestError | None]:
        endpoint, state = self._endpoint, self._state
        try:
            _admit(endpoint, state, scope)
            body = None
            if endpoint.body is not None:
                limits = exchange.settings.limits
                raw = await read_body(receive, scope["headers"], limits.body_bytes, limits.body_seconds, share)
                endpoint = endpoint if endpoint.choose is None else endpoint.choose(raw)
                self._look_for_unknown_fields(raw)
                body = decoded(endpoint.body, raw)
            watch.start()
            try:
                async with asyncio.timeout(exchange.settings.limits.request_seconds):
                    return endpoint, await endpoint.handler(body, exchange), None
            except TimeoutError as error:
                raise RequestError("the request took too long", "timeout", retry_after=1) from error
        except Disconnected:
            raise
        except RequestError as error:
            return endpoint, _error_reply(endpoint, error), error
        except Exception:
            logger.exception("%s failed, request %s", endpoint.path, exchange.request_id)
            failure = RequestError("the server failed; its log has the reason", "backend")
            return endpoint, endpoint.dialect.error(failure), failure

    def _look_for_unknown_fields(self, body: bytes) -> None:
        """Log the names of fields that no route knows: each once, and never their values."""
        known, seen = self._fields, self._state.unknown_fields
        if known is None or len(body) > _SMALL_BODY or len(seen) >= _MOST_UNKNOWN:
            return
        try:
            names = _NAMES.decode(body).keys() - known
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        for name in names:
            if name not in seen and _FIELD.fullmatch(name) and len(seen) < _MOST_UNKNOWN:
                seen.add(name)
                logger.info("%s: unknown field %r is ignored", self._endpoint.path, name)


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


_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _fields_of(body: Any) -> frozenset[str] | None:
    """The names of the fields of a body; None if it has several forms."""
    if isinstance(body, type) and issubclass(body, msgspec.Struct):
        return frozenset(field.encode_name for field in msgspec.structs.fields(body))
    return None


def _admit(endpoint: Endpoint, state: State, scope: Scope) -> None:
    """Fail if a request may not pass, whatever its body has."""
    if not endpoint.public and not state.keys.accept(scope["headers"]):
        raise RequestError("the API key is missing or unknown", "unauthorized", code="invalid_api_key")
    if endpoint.probe and not state.ready:
        raise RequestError("the server is about to end", "unhealthy", retry_after=1)


def _error_reply(endpoint: Endpoint, error: RequestError) -> Reply:
    reply = endpoint.dialect.error(error)
    if error.kind == "unauthorized":
        reply = dataclasses.replace(reply, headers={**reply.headers, "www-authenticate": "Bearer"})
    if error.code == "slow_body":  # the client's fault, where a timeout of the server is status 503
        reply = dataclasses.replace(reply, status=408)
    return reply


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else f"{_PROCESS}{next(_NUMBERS):012x}"


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


class _Application:
    """Routes by path in one look-up; only paths with parameters are searched."""

    def __init__(self, state: State, endpoints: Sequence[Endpoint]) -> None:
        self._routes: dict[str, dict[str, Handling]] = {}
        others = []
        for endpoint in endpoints:
            handling = Handling(endpoint, state)
            for path in (endpoint.path, *endpoint.also):
                if "{" in path:
                    others.append(Route(path, handling, methods=[endpoint.method]))
                else:
                    self._routes.setdefault(path, {})[endpoint.method] = handling
        self._wrong_method = Handling(_failing("wrong method", "this route has another method", "method"), state)
        unknown = Handling(_failing("unmatched", "this server has no such route", "not_found"), state)
        self._others = Router(others, redirect_slashes=False, default=unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: str = scope["path"]
        by_method = self._routes.get(path) or self._routes.get(path.rstrip("/"))
        if by_method is None:
            await self._others(scope, receive, send)
            return
        method: str = scope["method"]
        handling = by_method.get("GET" if method == "HEAD" else method)
        if handling is not None:
            await handling(scope, receive, send)
            return
        allowed = ", ".join(sorted({*by_method} | ({"HEAD"} if "GET" in by_method else set())))

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"allow", allowed.encode()))
            await send(message)

        await self._wrong_method(scope, receive, send_allowed)


def _failing(name: str, message: str, kind: Kind) -> Endpoint:
    """An endpoint that fails always, in the shape of OpenAI's errors."""

    async def fail(body: object, exchange: Exchange) -> Reply:
        raise RequestError(message, kind)

    return Endpoint("GET", name, fail, openai.DIALECT, "", public=True)


def make_application(state: State, endpoints: Sequence[Endpoint] | None = None) -> ASGIApp:
    """The ASGI application of a server.

    Args:
        state: The configuration and the open models.
        endpoints: The routes; None takes all.
    """
    return allow_origins(_Application(state, routes() if endpoints is None else endpoints), state.settings.cors_origins)

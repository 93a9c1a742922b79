"""Run a server: sockets, signals, reloads, and an end that loses no accepted request."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate
from functools import partial
from time import monotonic, time
from types import FrameType

import uvicorn
from uvicorn.server import ServerState

from embedrt.errors import EmbedrtError, InferenceError
from embedrt.run.queue import BatchRecord
from embedrt.server import metrics as prometheus
from embedrt.server.application import State, make_application
from embedrt.server.connections import Connection, ConnectionLimits, Traffic
from embedrt.server.dialects import openai
from embedrt.server.dialects.platforms import routes_of
from embedrt.server.endpoint import Endpoint, Exchange, Reply
from embedrt.server.errors import RequestError
from embedrt.server.keys import Keys
from embedrt.server.logs import Log, Style, access_log, logging_to
from embedrt.server.metrics import Connections, Metrics
from embedrt.server.models import Models
from embedrt.server.observers import Observer
from embedrt.server.opening import Queues, open_models
from embedrt.server.routes import routes
from embedrt.server.settings import Settings
from embedrt.server.sockets import address_of, bound, bound_port, most_connections
from embedrt.server.tracing import open_tracer

logger = logging.getLogger("embedrt.server")

_BACKLOG = 2048
# At the end, a connection that is kept open may send one more request for so long: the client cannot know yet.
_LAST_REQUEST_SECONDS = 0.5
# Time for the threads of the queue to end after the last request.
_JOIN_SECONDS = 5.0
# Settings that a reload cannot change.
_FIXED = (
    "host",
    "port",
    "socket",
    "threads",
    "cors_origins",
    "metrics",
    "metrics_port",
    "json_logs",
    "access_log",
    "otlp_endpoint",
    "otlp_service_name",
    "page",
    "predict_route",
    "health_route",
)
_FIXED_LIMITS = ("requests", "waiting_texts", "header_seconds", "idle_seconds")


class Server:
    """A server with open models.

    Args:
        settings: The configuration.
        reread: Function that reads the configuration again, for reloads.
        log: The log for lines about requests; None writes none.

    Attributes:
        state: What all requests share.
        queues: The queues of the models.

    Raises:
        EmbedrtError: A model could not be opened.
        ValueError: A setting does not fit.
    """

    def __init__(
        self, settings: Settings, reread: Callable[[], Settings] | None = None, log: Log | None = None
    ) -> None:
        self._reread = reread
        self.metrics = Metrics() if settings.metrics else None
        observers: list[Observer] = []
        if self.metrics is not None:
            observers.append(self.metrics.ended)
        if log is not None and settings.access_log:
            observers.append(partial(access_log, log))
        self._tracer = None
        if settings.otlp_endpoint is not None:
            self._tracer = open_tracer(settings.otlp_endpoint, settings.otlp_service_name)
            observers.append(self._tracer.ended)
        keys = Keys(settings.keys, settings.key_file)
        self.queues = Queues(settings, self._observe)
        try:
            models = open_models(settings, self.queues)
        except BaseException:
            self.queues.close()
            raise
        self.state = State(settings, models, keys, observers)
        self._show(models)
        self._traffic = Traffic()
        self._server_states: list[ServerState] = []
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()

    def _observe(self, batch: BatchRecord) -> None:
        """Count a batch; a failure to count does not end the thread that computes."""
        if self.metrics is not None:
            try:
                self.metrics.batch(batch)
            except Exception:
                logger.exception("a batch was not counted")

    def _show(self, models: Models) -> None:
        if self.metrics is not None:
            self.metrics.models(models)

    async def serve(
        self,
        listening: Sequence[socket.socket],
        metrics: Sequence[socket.socket] = (),
        ready: Callable[[], None] = lambda: None,
    ) -> int:
        """Serve until `stop`.

        Args:
            listening: Bound sockets for requests.
            metrics: Bound sockets for the metrics alone.
            ready: Called once requests are taken.

        Returns:
            The exit status: 0, or 1 if the deadline of the end cut requests.

        Raises:
            InferenceError: A model failed on a short text.
        """
        loop = asyncio.get_running_loop()
        try:
            return await self._serve(listening, metrics, ready)
        finally:
            self.queues.close()
            for queue in self.queues.by_device.values():
                if not await loop.run_in_executor(None, queue.join, _JOIN_SECONDS):
                    logger.warning("the engine has not ended within %g s", _JOIN_SECONDS)
            if self._tracer is not None:
                await loop.run_in_executor(None, self._tracer.close)

    async def _serve(
        self, listening: Sequence[socket.socket], metrics: Sequence[socket.socket], ready: Callable[[], None]
    ) -> int:
        await _warm_up(self.state.models)
        own = Endpoint("GET", "/metrics", self._metrics, openai.DIALECT, "Metrics for Prometheus", public=True)
        more = [own] if self.metrics is not None and not metrics else []
        endpoints = routes([*routes_of(self.state.settings), *more])
        listeners = [await self._listen(endpoints, one) for one in listening]
        watchers = [await self._listen([own], one) for one in metrics]
        clock = asyncio.get_running_loop().create_task(self._every_second())
        ready()
        try:
            await self._stopping.wait()
            return await self._end(listeners)
        finally:
            clock.cancel()
            for one in (*listeners, *watchers):
                one.close()
            for state in self._server_states:
                for connection in [*state.connections]:
                    connection.transport.abort()

    def stop(self) -> None:
        """End the server: readiness first, then new connections, then what was accepted; called in its loop."""
        self._stopping.set()

    async def reload(self) -> None:
        """Read the configuration and the keys again; what fails leaves everything as it is, and an error in the log."""
        async with self._reloading:
            self.state.keys.reload()
            if self._reread is None:
                return
            loop, state = asyncio.get_running_loop(), self.state
            try:
                settings = await loop.run_in_executor(None, self._reread)
                keys = Keys(settings.keys, settings.key_file)
                models = await loop.run_in_executor(None, open_models, settings, self.queues, state.models)
                await _warm_up(models)
            except (EmbedrtError, ValueError, OSError) as error:
                logger.error("the configuration was not reloaded, the old one stays: %s", error)  # noqa: TRY400
                return
            except Exception:
                logger.exception("the configuration was not reloaded, the old one stays")
                return
            kept = _changed(state.settings, settings)
            if kept:
                logger.warning("a reload cannot change these settings, restart for them: %s", ", ".join(kept))
            state.settings, state.models, state.keys = settings, models, keys
            self._show(models)
            del models, keys, settings
            await loop.run_in_executor(None, gc.collect)  # models that were replaced may be part of a cycle
            logger.info("reloaded: %s", ", ".join(one.name for one in state.models.served))

    async def _listen(self, endpoints: Sequence[Endpoint], listening: socket.socket) -> asyncio.Server:
        limits = self.state.settings.limits
        config = uvicorn.Config(
            make_application(self.state, endpoints),
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]  # seconds, whole or not
        )
        config.load()
        state = ServerState()
        self._server_states.append(state)
        factory = partial(
            Connection,
            ConnectionLimits(
                header_seconds=limits.header_seconds,
                write_seconds=limits.body_seconds,
                linger_seconds=limits.body_seconds,
                connections=most_connections(),
            ),
            self._traffic,
            config=config,
            server_state=state,
            app_state={},
        )
        return await asyncio.get_running_loop().create_server(factory, sock=listening, backlog=_BACKLOG)

    async def _every_second(self) -> None:
        """Keep the header `date` of replies current, and look after the threads that compute."""
        stopped = False
        while True:
            if True in [one.fail_if_stopped() for one in self.state.models.served] and not stopped:
                stopped = True
                logger.error("a thread of the engine has died; requests and health checks fail until a restart")
            date = [(b"date", formatdate(time(), usegmt=True).encode())]
            for state in self._server_states:
                state.default_headers = date
            await asyncio.sleep(1)

    async def _metrics(self, body: object, exchange: Exchange) -> Reply:
        del body, exchange
        traffic = self._traffic
        connections = Connections(
            sum(len(state.connections) for state in self._server_states),
            self.state.in_flight,
            self.state.ready,
            traffic.refused,
            traffic.timed_out,
        )
        text = self.metrics.render(self.queues.by_device, connections) if self.metrics is not None else b""
        return Reply((text,), media_type=prometheus.CONTENT_TYPE)

    async def _end(self, listeners: Sequence[asyncio.Server]) -> int:
        """Finish what was accepted."""
        seconds = self.state.settings.limits.shutdown_seconds
        logger.info("ending: %d requests have up to %g s", self.state.in_flight, seconds)
        self.state.ready = False
        self._traffic.draining = True
        await asyncio.sleep(0)  # the loop accepts what has come so far
        await asyncio.sleep(0)
        for one in listeners:
            one.close()
        states = self._server_states[: len(listeners)]
        await self._ended(states, min(seconds, _LAST_REQUEST_SECONDS))
        for state in states:
            for connection in [*state.connections]:
                connection.shutdown()
        await self._ended(states, seconds)
        if left := self.state.in_flight:
            logger.error("%d requests were cut after %g s", left, seconds)
            return 1
        logger.info("ended: every accepted request has its reply")
        return 0

    async def _ended(self, states: Sequence[ServerState], seconds: float) -> None:
        """Wait until all connections have ended, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(state.connections for state in states):
                    self._traffic.none_left.clear()
                    await self._traffic.none_left.wait()


def run(settings: Settings, reread: Callable[[], Settings] | None = None, notes: Sequence[str] = ()) -> int:
    """Serve until a signal: SIGTERM or SIGINT ends the server, a second one at once; SIGHUP reloads.

    Args:
        settings: The configuration.
        reread: Function that reads the configuration again.
        notes: Lines for the log about the configuration.

    Returns:
        The exit status: 0, or 1 if the deadline of the end cut requests.

    Raises:
        EmbedrtError: A model could not be opened.
        ValueError: A setting does not fit.
        OSError: The address is in use, or not allowed.
    """
    started = monotonic()
    style: Style = "json" if settings.json_logs else "plain"
    with ExitStack() as stack:
        listening = stack.enter_context(bound(settings))
        metrics = stack.enter_context(bound_port(settings.host, settings.metrics_port))
        log = stack.enter_context(logging_to(sys.stderr.buffer, style))
        for note in notes:
            logger.warning("%s", note)
        with _hangups_ignored():
            server = Server(settings, reread, log)

        def ready() -> None:
            names = ", ".join(one.name for one in server.state.models.served)
            logger.info("serving %s on %s, ready after %.1f s", names, address_of(listening), monotonic() - started)

        async def main() -> int:
            with _signals(server, log):
                return await server.serve(listening, metrics, ready)

        return asyncio.run(main())


async def _warm_up(models: Models) -> None:
    """Run every model, in each way that makes something on first use, and then as requests do."""
    loop = asyncio.get_running_loop()
    for one in models.served:
        try:
            await loop.run_in_executor(None, one.warm_up)
            await one.check()
        except RequestError as error:
            raise InferenceError(f"{one.name}: {error.message}: {error.__cause__}") from error
        except EmbedrtError as error:
            raise InferenceError(f"{one.name}: the model failed on a short text: {error}") from error


def _changed(old: Settings, new: Settings) -> list[str]:
    """The names of settings that differ, and that only a restart can change."""
    return [
        *(name for name in _FIXED if getattr(old, name) != getattr(new, name)),
        *(f"limits.{name}" for name in _FIXED_LIMITS if getattr(old.limits, name) != getattr(new.limits, name)),
    ]


@contextmanager
def _hangups_ignored() -> Iterator[None]:
    """Ignore SIGHUP while models are opened; otherwise it would end the process."""
    hangup = getattr(signal, "SIGHUP", None)
    before = None if hangup is None else signal.signal(hangup, signal.SIG_IGN)
    try:
        yield
    finally:
        if hangup is not None:
            signal.signal(hangup, before)


@contextmanager
def _signals(server: Server, log: Log) -> Iterator[None]:
    """Handle signals while the server runs."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def end_now(number: int, frame: FrameType | None) -> None:
        del frame
        logger.warning("ending at once, after a second signal")
        log.close(0.2)
        os._exit(128 + number)

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        for name in endings:
            signal.signal(name, end_now)
        loop.call_soon_threadsafe(server.stop)

    def reload() -> None:
        task = loop.create_task(server.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def hang_up(number: int, frame: FrameType | None) -> None:
        del number, frame
        loop.call_soon_threadsafe(reload)

    endings = [signal.SIGINT, signal.SIGTERM]
    handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(endings, end)
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = hang_up
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

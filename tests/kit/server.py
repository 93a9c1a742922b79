"""A running server in a thread of the test process, and a small client for it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from threading import Event, Thread
from typing import Any

from embedrt.server.application import State
from embedrt.server.logs import Log
from embedrt.server.opening import Queues
from embedrt.server.serving import Server
from embedrt.server.settings import Settings
from embedrt.server.sockets import bound, bound_port


@dataclass(frozen=True)
class Answer:
    """A reply."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Address:
    """The address of a server, and a small client for it."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request; a body that is no bytes is sent as JSON."""
        connection = HTTPConnection(self.host, self.port, timeout=60)
        try:
            raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            kind = {} if raw is None else {"content-type": "application/json"}
            connection.request(method, path, raw, {**kind, **(headers or {})})
            response = connection.getresponse()
            read = response.read()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, read)
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """Send a POST request."""
        return self.request("POST", path, body, headers)

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET request."""
        return self.request("GET", path, None, headers)


@dataclass(frozen=True)
class Running(Address):
    """A server that runs."""

    server: Server = field(repr=False)
    loop: asyncio.AbstractEventLoop = field(repr=False)
    metrics_port: int | None = None

    @property
    def state(self) -> State:
        """State that all requests share."""
        return self.server.state

    @property
    def queues(self) -> Queues:
        """The queues of the models."""
        return self.server.queues


@contextmanager
def serving(
    settings: Settings, reread: Callable[[], Settings] | None = None, log: Log | None = None
) -> Iterator[Running]:
    """Run a server on a free port of this machine, in a thread."""
    server = Server(settings, reread, log)
    with bound(replace(settings, port=0)) as listening, bound_port("127.0.0.1", settings.metrics_port) as metrics:
        ready = Event()
        ended: list[int] = []

        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            ended.append(await server.serve(listening, metrics, ready.set))

        loops: list[asyncio.AbstractEventLoop] = []
        thread = Thread(target=lambda: asyncio.run(main()), name="server")
        thread.start()
        try:
            while not ready.wait(0.1):
                assert thread.is_alive(), "the server did not start"
            host, port = listening[0].getsockname()[:2] if settings.socket is None else (str(settings.socket), 0)
            own_port = metrics[0].getsockname()[1] if metrics else None
            yield Running(host, port, server, loops[0], own_port)
        finally:
            if thread.is_alive():
                loops[0].call_soon_threadsafe(server.stop)
            thread.join(60)
            assert not thread.is_alive(), "the server did not end"

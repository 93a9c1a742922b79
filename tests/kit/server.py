"""A running server in a thread of the test process, and a small client for it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import uvicorn

from embedrt.server.application import State, make_application
from embedrt.server.models import Queues, open_models
from embedrt.server.settings import Settings


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
class Running:
    """A server that runs."""

    host: str
    port: int
    state: State
    queues: Queues

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


@contextmanager
def serving(settings: Settings) -> Iterator[Running]:
    """Run a server on a free port of this machine."""
    queues = Queues(settings)
    state = State(settings, open_models(settings, queues))
    config = uvicorn.Config(make_application(state), "127.0.0.1", 0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen(128)  # before the thread does, so that no request comes too early
    thread = Thread(target=server.run, args=([listening],), name="server")
    thread.start()
    try:
        yield Running("127.0.0.1", listening.getsockname()[1], state, queues)
    finally:
        server.should_exit = True
        thread.join(60)
        queues.close()
        listening.close()

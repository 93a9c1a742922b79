"""The contract between the application and the dialects: a table of endpoints, each with a handler."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from embedrt.server.errors import RequestError
from embedrt.server.models import Models
from embedrt.server.notes import Notes
from embedrt.server.settings import Settings


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        body: The body, in blocks.
        status: The status.
        media_type: The content type.
        headers: More headers; names in lower case.
    """

    body: tuple[bytes, ...] = ()
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exchange:
    """One request on its way through the server.

    Attributes:
        request_id: Its id, from the client or made here.
        path: The path of the request.
        headers: The headers of the request; names in lower case.
        query: The query string.
        models: The open models.
        settings: The server's configuration.
        notes: Facts for headers, metrics and log.
    """

    request_id: str
    path: str
    headers: Mapping[str, str]
    query: str
    models: Models
    settings: Settings
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class Dialect:
    """An API that clients speak.

    Attributes:
        name: Its name, for metrics and the documentation.
        error: Turns a failure into a reply of the shape that its clients read.
        timings: Whether replies have TEI's headers with timings.
    """

    name: str
    error: Callable[[RequestError], Reply]
    timings: bool = False


@dataclass(frozen=True)
class Endpoint:
    """One route.

    Attributes:
        method: The method.
        path: The path.
        handler: `await handler(body, exchange)`; `body` is the decoded body, or None without one.
        dialect: The dialect, whose shape errors have.
        summary: One line for the OpenAPI document.
        body: The type of the body, for msgspec; None for requests without a body.
        reply: The type of the reply, for the OpenAPI document.
        public: Whether the route needs no API key.
        also: More paths of the same route.
        choose: Function from a body, not yet decoded, to the endpoint that answers it, where several APIs share a path;
            then `body` and `reply` are for the OpenAPI document alone.
        forms: The endpoints that `choose` takes, whose replies and errors the OpenAPI document has too.
        probe: Whether the route says if the server takes requests: status 503 from the beginning of a shutdown on.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Callable[[Any, Exchange], Awaitable[Reply]]
    dialect: Dialect
    summary: str
    body: Any = None
    reply: Any = None
    public: bool = False
    also: tuple[str, ...] = ()
    choose: "Callable[[bytes], Endpoint] | None" = None
    forms: "tuple[Endpoint, ...]" = ()
    probe: bool = False

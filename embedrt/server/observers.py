"""A request that has ended, as metrics, access log and traces see it."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

from embedrt.server.endpoint import Endpoint, Exchange
from embedrt.server.errors import RequestError

GONE = 499
"""The status of a request whose client closed the connection before the reply."""


@dataclass(frozen=True)
class Ended:
    """A request that has ended.

    Attributes:
        exchange: The request.
        endpoint: Its route.
        scope: Its ASGI scope.
        status: The status of the reply; 499 if the client closed the connection before.
        failure: The failure that the reply shows, or None.
        started: When it began, by the monotonic clock.
        seconds: How long it took.
    """

    exchange: Exchange
    endpoint: Endpoint
    scope: Scope
    status: int
    failure: RequestError | None
    started: float
    seconds: float


Observer = Callable[[Ended], None]

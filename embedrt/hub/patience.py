"""Timeouts for requests to the hub whose functions take none, and an end to requests that are repeated in vain."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# The same request is sent this often without any answer or progress. The client's own functions retry up to 13 times.
_TRIES = 2
# The longest pause that a server may ask for, in seconds: the period over which the hub counts requests.
_LONGEST_PAUSE = 300
_CHANGING_HOOKS = threading.Lock()


class NoAnswer(Exception):  # noqa: N818 - a condition, not an error of this process
    """A server accepted a request several times and did not answer, or stopped sending."""


class LongPause(Exception):  # noqa: N818 - likewise
    """A server asks to wait for longer than anybody would."""


@dataclass
class _Watch:
    """The requests of one operation.

    Attributes:
        seconds: Upper limit of every timeout.
        bystanders: Threads that ran before the operation began; their requests are not touched.
        sent: How often each request was sent without success, by method, URL and first byte.
    """

    seconds: float
    bystanders: frozenset[threading.Thread]
    sent: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def before(self, request: Any) -> None:
        """Limit the timeouts of a request; raise NoAnswer if it was sent often enough."""
        if threading.current_thread() in self.bystanders:
            return
        given = request.extensions.get("timeout", {})
        limits = {
            kind: min(given.get(kind) or self.seconds, self.seconds) for kind in ("connect", "read", "write", "pool")
        }
        request.extensions = {**request.extensions, "timeout": limits}
        key = _key(request)
        if self.sent[key] == _TRIES:
            raise NoAnswer(f"{request.method} {request.url}")
        self.sent[key] += 1

    def after(self, response: Any) -> None:
        """Let the client retry what the server refused, unless the server asks for a pause without end."""
        if threading.current_thread() in self.bystanders or response.status_code < 400:
            return
        del self.sent[_key(response.request)]
        pause = response.headers.get("Retry-After", "").strip()
        if pause.isascii() and pause.isdigit() and int(pause[:9]) > _LONGEST_PAUSE:
            raise LongPause(
                f"HTTP {response.status_code} for {response.request.url.path}; the server asks to wait {pause[:9]} s"
            )


def _key(request: Any) -> tuple[str, str, str]:
    # A resumed download begins at another byte, so that progress never counts as repetition.
    return request.method, str(request.url), request.headers.get("Range", "")


@contextmanager
def patience(client: Any, seconds: float) -> Iterator[None]:
    """Limit the timeouts of all requests that this thread and its children send through a shared HTTP client.

    The client belongs to the whole process. Other threads keep their timeouts, and it is left as it was.

    Args:
        client: The client, of httpx or of a library with the same interface.
        seconds: Upper limit for connecting, and for each wait for bytes.
    """
    watch = _Watch(seconds, frozenset(threading.enumerate()) - {threading.current_thread()})
    with _CHANGING_HOOKS:
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], watch.before],
            "response": [*hooks["response"], watch.after],
        }
    try:
        yield
    finally:
        with _CHANGING_HOOKS:  # a new dict, as another thread may be iterating over this one
            hooks = client.event_hooks
            client.event_hooks = {
                "request": [hook for hook in hooks["request"] if hook != watch.before],
                "response": [hook for hook in hooks["response"] if hook != watch.after],
            }

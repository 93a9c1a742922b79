"""Requests of web pages from other origins (CORS): off unless origins are named."""

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = b"GET, POST, OPTIONS"
_HEADERS = (b"authorization", b"content-type", b"api-key", b"x-request-id")
_EXPOSED = (
    b"x-request-id, x-embedrt-model, x-embedrt-truncated, x-embedrt-truncated-indexes, retry-after, x-compute-time, "
    b"x-total-time, x-queue-time, x-inference-time, x-tokenization-time, x-compute-characters, x-compute-tokens"
)
_MAX_AGE = b"3600"


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Wrap an application, so that pages of some origins may call it; without origins, return it as it is.

    A preflight request has no key, so it is answered here, before the keys are checked.

    Args:
        app: The application.
        origins: Origins such as `https://example.com`, or `*` for all.
    """
    if not origins:
        return app
    everyone = "*" in origins
    allowed = frozenset(origin.encode() for origin in origins)

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        origin = _header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None or not (everyone or origin in allowed):
            await app(scope, receive, send)
            return
        allow = [(b"access-control-allow-origin", b"*" if everyone else origin), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None:
            await send({"type": "http.response.start", "status": 204, "headers": [*allow, *_preflight(scope)]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *allow, (b"access-control-expose-headers", _EXPOSED)]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _preflight(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers that answer a preflight request. Clients add headers of their own, of which those named `x-` pass."""
    asked = (_header(scope, b"access-control-request-headers") or b"").lower()
    names = (name.strip() for name in asked.split(b","))
    own = [name for name in names if name.startswith(b"x-") and name.replace(b"-", b"").isalnum()]
    return [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", b", ".join(dict.fromkeys([*_HEADERS, *own[:50]]))),
        (b"access-control-max-age", _MAX_AGE),
    ]

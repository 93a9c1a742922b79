"""The log of the server and its access log: plain or JSON lines, written by a thread, without texts and keys."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import BinaryIO, Literal

import orjson

from embedrt.server.observers import Ended

Style = Literal["plain", "json"]
Entry = Mapping[str, str | int | float | None]
"""A line of the access log: its fields, of which those that are None are left out."""

_Line = logging.LogRecord | tuple[float, Entry]

_GATHER_SECONDS = 0.02
_MOST_LINES = 10_000
"""Lines that wait for a slow reader of the log; more are dropped and counted."""

_TRACEBACKS = logging.Formatter()
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


class Log:
    """Lines for an output, formatted and written by a thread: a log that nobody reads does not stop the server.

    The thread lets lines gather for a moment, since waking it costs more than a line.

    Args:
        stream: The output.
        style: The format of lines.
    """

    def __init__(self, stream: BinaryIO, style: Style) -> None:
        self._stream = stream
        self._style = style
        self._lines: deque[_Line] = deque()
        self._dropped = 0
        self._any = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedrt-log", daemon=True)
        self._thread.start()

    def request(self, entry: Entry) -> None:
        """Write a line of the access log."""
        self._put((time.time(), entry))

    def record(self, record: logging.LogRecord) -> None:
        """Write a line of the server's log."""
        self._put(record)

    def close(self, seconds: float = 1.0) -> None:
        """Write what is left, for a bounded time."""
        self._closing.set()
        self._any.set()
        self._thread.join(seconds)

    def _put(self, line: _Line) -> None:
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._any.is_set():
            self._any.set()

    def _run(self) -> None:
        while not self._closing.is_set() or self._lines:
            self._any.wait()
            self._closing.wait(_GATHER_SECONDS)
            self._any.clear()
            lines = [_formatted(self._lines.popleft(), self._style) for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                lost = {"level": "warning", "message": f"{dropped} lines of the log were dropped: its reader is slow"}
                lines.append(_formatted((time.time(), lost), self._style))
            try:
                self._stream.write(b"".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # a full disk or a closed output: serving goes on
                continue


def access_log(log: Log, request: Ended) -> None:
    """Write the line of a request that has ended: no text, no key, and a path only if it is one of the routes."""
    exchange, notes, failure = request.exchange, request.exchange.notes, request.failure
    client = request.scope.get("client")
    log.request(
        {
            "request": exchange.request_id,
            "client": client[0] if client else None,
            "method": request.scope["method"],
            "route": request.endpoint.path,
            "status": request.status,
            "ms": round(request.seconds * 1000, 2),
            "queue_ms": round(notes.queue_seconds * 1000, 2) if notes.texts else None,
            "engine_ms": round(notes.engine_seconds * 1000, 2) if notes.texts else None,
            "model": notes.model or None,
            "texts": notes.texts or None,
            "tokens": notes.tokens or None,
            "truncated": len(notes.truncated) or None,
            "failure": failure.kind if failure is not None else None,
        }
    )


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.record(record)


@contextmanager
def logging_to(stream: BinaryIO, style: Style, level: str = "info") -> Iterator[Log]:
    """Send the messages of embedrt and uvicorn to a log while the server runs.

    Args:
        stream: The output.
        style: The format of lines.
        level: The least level of messages.
    """
    log = Log(stream, style)
    handler = _Handler(log)
    handler.setLevel(level.upper())
    loggers = [logging.getLogger(name) for name in ("embedrt", "uvicorn", "asyncio")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper() if logger.name == "embedrt" else "WARNING")
    try:
        yield log
    finally:
        for logger, (handlers, old_level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(old_level)
        log.close()


def _formatted(line: _Line, style: Style) -> bytes:
    if isinstance(line, logging.LogRecord):
        moment = line.created
        fields: dict[str, object] = {"level": line.levelname.lower(), "message": _message(line)}
        if line.exc_info and line.exc_info[0]:
            fields["exception"] = _TRACEBACKS.formatException(line.exc_info)
    else:
        moment, entry = line
        fields = {name: value for name, value in entry.items() if value is not None}
    clock = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    if style == "json":
        return orjson.dumps({"time": clock, **fields}, default=str, option=orjson.OPT_APPEND_NEWLINE)
    return f"{clock} {_plain(fields)}\n".encode("utf-8", "backslashreplace")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a message whose arguments do not fit is still a message
        return str(record.msg)


def _plain(fields: Mapping[str, object]) -> str:
    """Fields on one line: a message as it is, everything else by name; a traceback below."""
    message = str(fields.get("message", "")).translate(_CONTROL)
    shown = [str(fields["level"]).upper(), message] if "message" in fields else []
    shown += [
        f"{name}={value}".translate(_CONTROL)
        for name, value in fields.items()
        if name not in {"level", "message", "exception"}
    ]
    below = f"\n{fields['exception']}" if "exception" in fields else ""
    return " ".join(shown) + below

"""Workers that fail when a text tells them to. A test puts one of them where `embedrt.run.processes` has `serve`."""

import os
import signal
import struct
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Never

from embedrt.errors import NonFiniteError
from embedrt.run import worker
from embedrt.run.request import Request, Result
from embedrt.run.runner import Runner
from embedrt.run.worker import Settings


class UnpicklableError(Exception):
    """Can neither be pickled nor made from its message alone."""

    def __init__(self, code: int, *, remedy: str) -> None:
        super().__init__(f"code {code}, {remedy}")
        self.callback = lambda: code


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def die() -> Never:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hold(fifo: str) -> None:
    """Tells who holds, then computes for ever."""
    Path(fifo).write_text(f"{os.getpid()}\n", encoding="ascii")
    threading.Event().wait()


def fail(error: Exception) -> Never:
    raise error


def half_a_message(connection: Connection) -> None:
    """Lets the worker die in the middle of its next result."""

    def send_bytes(data: bytes) -> None:
        os.write(connection.fileno(), struct.pack("!i", len(data)) + data[: len(data) // 2])
        die()

    connection.send_bytes = send_bytes  # type: ignore[method-assign, assignment]


FAULTS: dict[str, Callable[[Connection, str], Any]] = {
    "die": lambda connection, _: die(),
    "exit": lambda connection, code: os._exit(int(code)),
    "leave": lambda connection, code: fail(SystemExit(int(code))),  # type: ignore[arg-type]
    "hold": lambda connection, fifo: hold(fifo),
    "half a message": lambda connection, _: half_a_message(connection),
    "unpicklable": lambda connection, _: fail(UnpicklableError(3, remedy="none")),
    "speechless": lambda connection, _: fail(SpeechlessError()),
    "value": lambda connection, text: fail(ValueError(text)),
    "key": lambda connection, text: fail(KeyError(text)),
    "unicode": lambda connection, _: b"\xff".decode("ascii"),
    "tell": lambda connection, name: fail(ValueError(os.environ[name])),
    "non-finite": lambda connection, text: fail(NonFiniteError(text)),
}


def obey(connection: Connection, text: str) -> None:
    """Does what a text such as "!die", "!exit 3" or "!once /flag die" says; any other text is just a text."""
    if not text.startswith("!"):
        return
    order = text[1:]
    if order.startswith("once "):
        _, flag, order = order.split(" ", 2)
        if Path(flag).exists():
            return
        Path(flag).touch()
    name = next(name for name in sorted(FAULTS, key=len, reverse=True) if order.startswith(name))
    FAULTS[name](connection, order[len(name) :].strip())


def serve(connection: Connection, settings: Settings) -> None:
    """A worker that obeys its texts, then computes them."""
    plain = Runner.run

    def run(self: Runner, texts: list[str], request: Request, **rest: Any) -> Result:
        for text in texts:
            obey(connection, text)
        return plain(self, texts, request, **rest)

    Runner.run = run  # type: ignore[method-assign, assignment]
    worker.serve(connection, settings)


class Light:
    """A runner without an engine, which is quick to start."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    answer_with: Callable[[str], Any] = staticmethod(lambda _: None)

    def run(self, texts: list[str], request: Request, **_: object) -> Result:
        for text in texts:
            Light.answer_with(text)
        values = request.gather.start(len(texts))
        values[:] = len(texts)
        return Result(values, [])


def serve_lightly(connection: Connection, settings: Settings) -> None:
    """A worker that obeys its texts and computes nothing."""
    Light.answer_with = staticmethod(lambda text: obey(connection, text))
    worker.Runner = Light  # type: ignore[attr-defined, assignment]
    worker.serve(connection, settings)


def exit_at_once(*_: object) -> None:
    os._exit(7)


def die_at_once(*_: object) -> None:
    die()

"""The far side of a `ProcessPool`: a process that loads a bundle, then answers one chunk of texts after the other.

The conversation on the pipe, the pool first: a `Chunk`; its `Computed`, which says how many bytes the arrays have; the
name of a shared block of at least that size, or None if there is none to be had; `WRITTEN`, and if it was None the
bytes. In place of what it owes the worker may send a `Failure`.
"""

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from embedrt.bundle.manifest import read_bundle
from embedrt.run.runner import SENTENCE, Answer, Request, Runner
from embedrt.types import Features

# For every dict of arrays: their names, dtypes and shapes. The arrays lie one after the other in this order.
Layout: TypeAlias = list[dict[str, tuple[str, tuple[int, ...]]]]
WRITTEN = "written"


@dataclass(frozen=True)
class Settings:
    """What a worker loads. The attributes are the arguments of `Runner`."""

    folder: Path
    device: str | None
    precision: str
    threads: int | None
    max_tokens: int | None


@dataclass(frozen=True)
class Chunk:
    """Neighbouring texts of a call.

    Attributes:
        route: Who computes them.
        texts: The texts.
        request: What to compute.
        first: The index of the first in the call.
    """

    route: str
    texts: list[str]
    request: Request
    first: int

    def __str__(self) -> str:
        return f"texts[{self.first}:{self.first + len(self.texts)}]"


@dataclass(frozen=True)
class Ready:
    """The worker has loaded the bundle of this fingerprint."""

    fingerprint: str


@dataclass(frozen=True)
class Computed:
    """A chunk is done. What it came to has this layout and size; `truncated` is that of `Answer`."""

    layout: Layout
    size: int
    truncated: list[int]


@dataclass(frozen=True)
class Failure:
    """An exception in strings: whatever it holds, these can be sent.

    Attributes:
        module: Where its class is defined.
        name: Its class.
        message: Its text.
        trace: Its traceback as Python prints it.
    """

    module: str
    name: str
    message: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describes the exception; one whose own `__str__` fails too."""
        try:
            message = str(error.args[0] if len(error.args) == 1 else error)
        except Exception:  # noqa: BLE001 - any code of the exception's class may run here
            message = "an exception without a text"
        return cls(
            type(error).__module__, type(error).__qualname__, message, "".join(traceback.format_exception(error))
        )


def serve(connection: Connection, settings: Settings) -> None:
    """Runs a worker until the pool closes the pipe.

    Args:
        connection: To the pool.
        settings: What to load.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool stops its workers itself
    if settings.threads is not None:  # the tokenizer's threads too, of which there are none yet
        os.environ.setdefault("RAYON_NUM_THREADS", str(settings.threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    memory: SharedMemory | None = None
    with suppress(EOFError, OSError):  # the pool is gone
        try:
            manifest = read_bundle(settings.folder, "never")  # the pool's process has
            runners = {
                name: Runner(
                    settings.folder,
                    route,
                    manifest,
                    settings.device,
                    settings.precision,
                    settings.threads,
                    max_tokens=settings.max_tokens,
                )
                for name, route in manifest.routes.items()
            }
        except BaseException as error:  # noqa: BLE001 - the pool raises it
            connection.send(Failure.of(error))
            return
        connection.send(Ready(manifest.fingerprint))
        while True:
            chunk: Chunk = connection.recv()
            try:
                answer = runners[chunk.route].answer(chunk.texts, chunk.request, first=chunk.first)
                memory = _deliver(connection, answer, memory)
            except BaseException as error:  # noqa: BLE001 - the pool raises it
                connection.send(Failure.of(error))


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, also in the middle of a chunk."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _deliver(connection: Connection, answer: Answer, memory: SharedMemory | None) -> SharedMemory | None:
    """Hands the arrays over; returns the block that is attached now."""
    rows: list[Features] = [{SENTENCE: answer.values}] if isinstance(answer.values, np.ndarray) else answer.values
    layout: Layout = [{name: (array.dtype.str, array.shape) for name, array in row.items()} for row in rows]
    size = sum(array.nbytes for row in rows for array in row.values())
    connection.send(Computed(layout, size, answer.truncated))
    name: str | None = connection.recv()
    if name is None:
        data = bytearray(size)
        pack(rows, memoryview(data))
        connection.send(WRITTEN)
        connection.send_bytes(data)
        return memory
    if memory is None or memory.name != name:
        if memory is not None:
            memory.close()
        memory = _attach(name)
    pack(rows, cast(memoryview, memory.buf))
    connection.send(WRITTEN)
    return memory


def _attach(name: str) -> SharedMemory:
    # The pool unlinks it. Before Python 3.13 an attached block is tracked as well, by the tracker that the pool's
    # process shares with its children: there the name is one entry, which the pool removes.
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    return SharedMemory(name)


def pack(rows: list[Features], buffer: memoryview) -> None:
    """Puts arrays one after the other into the buffer."""
    start = 0
    for row in rows:
        for array in row.values():
            buffer[start : start + array.nbytes] = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # a Buffer from Python 3.12
            start += array.nbytes


def unpack(layout: Layout, buffer: "memoryview | bytes") -> list[Features]:
    """Copies of the arrays that `pack` put into the buffer."""
    start = 0

    def take(dtype: str, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
        nonlocal start
        stop = start + np.dtype(dtype).itemsize * prod(shape)
        # No array refers to the buffer itself, which could not be closed then.
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, bytearray(buffer[start:stop]))
        start = stop
        return array

    return [{name: take(*what) for name, what in row.items()} for row in layout]

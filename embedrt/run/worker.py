"""The far side of a `ProcessPool`: a process that loads a bundle, then computes one chunk of texts after the other.

The conversation on the pipe: the worker is `Ready`; then for each `Chunk` of the pool it sends a `Result`. In place of
what it owes it may send a `Failure`.
"""

import os
import signal
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from embedrt.bundle.manifest import read_bundle
from embedrt.engine.placement import Placement
from embedrt.run.request import Request
from embedrt.run.runner import Runner


@dataclass(frozen=True)
class Settings:
    """The bundle that a worker loads, and the placement of each of its routes."""

    folder: Path
    placements: Mapping[str, Placement]

    @property
    def placement(self) -> Placement:
        """The placement of the first route; device, dtype and threads of the others are the same."""
        return next(iter(self.placements.values()))


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
    # The tokenizer's threads, none of which has started yet.
    os.environ.setdefault("RAYON_NUM_THREADS", str(settings.placement.threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the pool is gone
        try:
            manifest = read_bundle(settings.folder, "never")  # the pool's process has
            runners = {
                name: Runner(settings.folder, route, manifest, settings.placements[name])
                for name, route in manifest.routes.items()
            }
        except BaseException as error:  # noqa: BLE001 - the pool raises it
            connection.send(Failure.of(error))
            return
        connection.send(Ready(manifest.fingerprint))
        while True:
            chunk: Chunk = connection.recv()
            try:
                indexes = range(chunk.first, chunk.first + len(chunk.texts))
                result = runners[chunk.route].run(chunk.texts, chunk.request, indexes=indexes)
                # Arrays are copied once in protocol 5, and twice in the one that `send` takes.
                connection.send_bytes(ForkingPickler.dumps(result, protocol=5))
            except BaseException as error:  # noqa: BLE001 - the pool raises it
                connection.send(Failure.of(error))


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, also in the middle of a chunk."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

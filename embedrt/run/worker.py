"""The worker process of a `ProcessPool`: it loads a bundle, then computes chunks of texts.

Protocol on the pipe: the worker sends `Ready`, then a `Result` for each `Chunk` that it receives. In place of either
message it may send a `Failure`.
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

from embedrt.bundle.manifest import Manifest
from embedrt.bundle.opened import SharedFiles
from embedrt.engine.placement import Placement
from embedrt.run.request import Request
from embedrt.run.runner import Runner


@dataclass(frozen=True)
class Settings:
    """The bundle that a worker loads, and the placement of each route.

    Attributes:
        manifest: The manifest.
        files: The files, as the pool's process opened and checked them.
        placements: The placement of each route.
    """

    manifest: Manifest
    files: SharedFiles
    placements: Mapping[str, Placement]

    @property
    def placement(self) -> Placement:
        """The placement of the first route; all routes share device, dtype and threads."""
        return next(iter(self.placements.values()))


@dataclass(frozen=True)
class Chunk:
    """Consecutive texts of a call.

    Attributes:
        route: The name of the route.
        texts: The texts.
        request: The options.
        first: The index of the first text in the call.
    """

    route: str
    texts: list[str]
    request: Request
    first: int

    def __str__(self) -> str:
        return f"texts[{self.first}:{self.first + len(self.texts)}]"


@dataclass(frozen=True)
class Ready:
    """Message of a worker that has loaded the bundle."""


@dataclass(frozen=True)
class Failure:
    """An exception as strings, which can always be pickled.

    Attributes:
        module: The module of its class.
        name: The name of its class.
        message: Its message.
        trace: Its formatted traceback.
    """

    module: str
    name: str
    message: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an exception, even one whose `__str__` raises."""
        try:
            message = str(error.args[0] if len(error.args) == 1 else error)
        except Exception:  # noqa: BLE001 - any code of the exception's class may run here
            message = "an exception without a text"
        return cls(
            type(error).__module__, type(error).__qualname__, message, "".join(traceback.format_exception(error))
        )


def serve(connection: Connection, settings: Settings) -> None:
    """Run a worker until the pool closes the pipe.

    Args:
        connection: The pipe to the pool.
        settings: The bundle and the placements to load.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool stops its workers itself
    # The tokenizer reads it when its threads start, which none has yet.
    os.environ.setdefault("RAYON_NUM_THREADS", str(settings.placement.threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the pool is gone
        try:
            files = settings.files.open()
            runners = {
                name: Runner(files, route, settings.manifest, settings.placements[name])
                for name, route in settings.manifest.routes.items()
            }
        except BaseException as error:  # noqa: BLE001 - the pool raises it
            connection.send(Failure.of(error))
            return
        connection.send(Ready())
        while True:
            chunk: Chunk = connection.recv()
            try:
                indexes = range(chunk.first, chunk.first + len(chunk.texts))
                result = runners[chunk.route].run(chunk.texts, chunk.request, indexes=indexes)
                # Protocol 5 copies arrays once; the default protocol of `send` copies them twice.
                connection.send_bytes(ForkingPickler.dumps(result, protocol=5))
            except BaseException as error:  # noqa: BLE001 - the pool raises it
                connection.send(Failure.of(error))


def _end_with_parent() -> None:
    """End this process when its parent is killed, even in the middle of a chunk."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

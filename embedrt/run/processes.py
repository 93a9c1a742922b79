"""`ProcessPool`: encoding on several processes, each with its own copy of the model."""

import atexit
import builtins
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import Any, Self

from embedrt import errors
from embedrt.bundle.manifest import Bundle
from embedrt.engine import Device
from embedrt.engine.cuda_setup import cards
from embedrt.engine.machine import available_threads, require_process
from embedrt.engine.native import is_ending, keep_threads_out, park, stack
from embedrt.engine.placement import Placement
from embedrt.errors import PoolError
from embedrt.run.request import Request, Result
from embedrt.run.worker import Chunk, Failure, Ready, Settings, serve

# As in sentence-transformers: ten chunks per worker, none larger than this.
_CHUNKS_PER_WORKER, _LARGEST_CHUNK = 10, 5000
# Maximum number of default workers without a GPU.
_CPU_WORKERS = 4
# Seconds to wait for a worker whose pipe is closed, so that it exits with its own exit code.
_EXIT_SECONDS = 5.0
_GUARD = 'if __name__ == "__main__":'
# The exit code of a process killed by SIGKILL.
_KILLED = -9
# The pools of this process.
_POOLS: "weakref.WeakSet[ProcessPool]" = weakref.WeakSet()


def _end() -> None:
    """At the end of the process: stop the workers, once no thread starts any."""
    keep_threads_out()
    for pool in list(_POOLS):
        pool._finalizer()


atexit.register(_end)  # handlers run in reverse order, so this one runs before that of `multiprocessing`


def default_devices(auto: Device) -> list[str]:
    """The devices of a default pool: every CUDA device, or one CPU worker per core, at most 4.

    Args:
        auto: The device that "auto" selects; any other than CUDA and CPU gets one process.
    """
    if auto.kind == "cuda":
        return [f"cuda:{index}" for index in range(max(1, len(cards())))]
    return [auto.name] * (min(_CPU_WORKERS, available_threads()) if auto.kind == "cpu" else 1)


class ProcessPool:
    """Worker processes that encode, one per device. Start a pool below `if __name__ == "__main__":`.

    A pool pays off on several GPUs; on a CPU, a single process already uses all cores.

    Threads may share a pool; their calls run one after the other. A worker that dies is replaced, and its chunk is
    retried once. A call that raises kills the workers that are still busy; the next call starts new ones. Without
    `close`, the processes end with the last reference to the pool, or with this process.

    Args:
        bundle: The bundle, which stays open for workers that start later.
        placements: The placement of every route, for each process. Processes on CPU cores share the threads.

    Attributes:
        devices: The name of the device of each process.
        dtype: The dtype of the vectors.
        fingerprint: The fingerprint of the bundle.

    Raises:
        ValueError: The list of devices is empty.
        DeviceError: A device is unknown or not available.
        BundleError: The bundle is damaged, or another one than when it was opened.
        PoolError: A worker died before it was ready.
    """

    def __init__(self, bundle: Bundle, placements: Sequence[Mapping[str, Placement]]) -> None:
        if not placements:
            raise ValueError("devices: expected at least one, as in ['cpu', 'cpu'], got []")
        self._bundle = bundle
        files = bundle.files.shared()
        self._settings = [Settings(bundle.manifest, files, shared) for shared in _sharing(placements)]
        self.devices = [settings.placement.device.name for settings in self._settings]
        self.dtype = self._settings[0].placement.dtype
        self.fingerprint = bundle.manifest.fingerprint
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._workers: list[_Worker | None] = [None] * len(placements)
        self._finalizer = weakref.finalize(self, _stop_all, self._workers, self._process)
        self._finalizer.atexit = False  # `_end` calls it
        _POOLS.add(self)
        try:
            self._start_missing()
            while not all(worker.ready for worker in self._running()):
                for worker, message in self._messages():
                    self._check_start(worker, message)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid or 0 for worker in self._running()]

    def close(self) -> None:
        """Stop the processes once running calls are done; later calls raise a PoolError."""
        if self._is_in_use_here():  # by the call that a signal handler has interrupted
            self._finalizer()
        else:
            with self._lock:
                self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ProcessPool({self.devices})"

    def run(
        self,
        texts: list[str],
        request: Request,
        *,
        route: str = "default",
        chunk_size: int | None = None,
        advance: Callable[[int], Any] = lambda _: None,
    ) -> Result:
        """Compute outputs of the graph and gather them, as `Runner.run` does.

        Args:
            texts: The texts, without the prompt.
            request: The options.
            route: The name of the route.
            chunk_size: Texts per chunk; None makes ten chunks per process, of at most 5000 texts.
            advance: Called with the number of texts whenever a chunk is done.

        Raises:
            TruncationError: A text is truncated, and the request forbids that.
            NonFiniteError: The model returned NaN or infinity.
            PoolError: The pool is closed, or two workers died on the same chunk.
        """
        size = chunk_size or max(1, min(ceil(len(texts) / len(self.devices) / _CHUNKS_PER_WORKER), _LARGEST_CHUNK))
        chunks = [Chunk(route, texts[start : start + size], request, start) for start in range(0, len(texts), size)]
        require_process(self._process)
        if self._is_in_use_here():
            raise PoolError("the pool computes the call that this signal handler has interrupted; start another pool")
        with self._lock:
            self._require_open()
            try:
                return self._collect(chunks, request, advance)
            except BaseException:
                self._require_open()
                self._kill([worker for worker in self._running() if not worker.idle])
                raise

    def _require_open(self) -> None:
        """Check that the pool has its workers.

        Raises:
            PoolError: It was closed.
        """
        if not self._finalizer.alive:
            _stay_at_end()
            raise PoolError("the pool is closed; start another one")

    def _is_in_use_here(self) -> bool:
        """Return True if this thread is inside another call of `run`."""
        callers = [frame for frame in stack(sys._getframe(2)) if frame.f_code is ProcessPool.run.__code__]
        return any(frame.f_locals.get("self") is self for frame in callers)

    def _collect(self, chunks: list[Chunk], request: Request, advance: Callable[[int], Any]) -> Result:
        """Keep every worker busy until all chunks are done."""
        total, left = sum(len(chunk.texts) for chunk in chunks), len(chunks)
        values = request.gather.start(total)
        truncated: list[int] = []
        waiting, suspects = deque(chunks), set[int]()
        self._kill([worker for worker in self._running() if worker.chunk is not None])  # of an interrupted call
        for worker in self._running():
            if not worker.process.is_alive():  # it died while idle, so there is no chunk to retry
                self._reap(worker)
        self._start_missing()
        while left:
            for worker in self._running():
                if waiting and worker.idle:
                    worker.send(waiting.popleft())
            for worker, message in self._messages():
                chunk = worker.chunk
                if chunk is None:
                    self._check_start(worker, message)
                elif isinstance(message, Result):
                    worker.chunk = None
                    values[chunk.first : chunk.first + len(chunk.texts)] = message.values
                    truncated += message.truncated
                    left -= 1
                    advance(len(chunk.texts))
                elif isinstance(message, Failure):
                    worker.chunk = None
                    raise _rebuild(message, f"{chunk}: a worker on {worker.settings.placement.device.name!r} failed")
                else:
                    code = self._reap(worker)
                    if chunk.first in suspects:
                        raise PoolError(f"{chunk}: two workers died on it, the second with {_describe_exit(code)}")
                    suspects.add(chunk.first)
                    waiting.appendleft(chunk)
                    self._start_missing()
        return Result(values, sorted(truncated))

    def _running(self) -> list["_Worker"]:
        return [worker for worker in self._workers if worker is not None]

    def _messages(self) -> Iterator[tuple["_Worker", "Ready | Result | Failure | None"]]:
        """Wait until at least one busy worker sends its message or dies."""
        sources = {
            source: worker
            for worker in self._running()
            if not worker.idle
            for source in (worker.connection, worker.process.sentinel)
        }
        ready = wait(list(sources))
        _stay_at_end()
        for worker in dict.fromkeys(sources[source] for source in ready):  # type: ignore[index]
            yield worker, worker.receive()

    def _start_missing(self) -> None:
        """Start a worker in every empty slot."""
        for slot, worker in enumerate(self._workers):
            if worker is None:
                _stay_at_end()
                self._workers[slot] = _Worker(self._settings[slot])

    def _check_start(self, worker: "_Worker", message: "Ready | Result | Failure | None") -> None:
        device = worker.settings.placement.device.name
        if isinstance(message, Failure):
            raise _rebuild(message, f"a worker on {device!r} could not start")
        if not isinstance(message, Ready):
            code = self._reap(worker)
            hint = "" if code < 0 else f". A script must start its pool below `{_GUARD}`: each worker imports it too"
            raise PoolError(f"a worker on {device!r} ended before it was ready, with {_describe_exit(code)}{hint}")
        worker.ready = True

    def _kill(self, busy: "Sequence[_Worker]") -> None:
        """Kill busy workers, so that the next call does not receive their results."""
        for worker in busy:
            worker.process.kill()
        for worker in busy:
            self._reap(worker)

    def _reap(self, worker: "_Worker") -> int:
        """Remove a worker that is ending, and return its exit code."""
        self._workers[self._workers.index(worker)] = None
        return worker.stop(_EXIT_SECONDS)


class _Worker:
    """One process of the pool and the pipe to it.

    Attributes:
        settings: The bundle and the placements that it loads.
        connection: The pipe.
        process: The process.
        ready: True once it has loaded the bundle.
        chunk: The chunk that it computes, if any.
    """

    def __init__(self, settings: Settings) -> None:
        context = get_context("spawn")  # a forked child has neither the tokenizer's nor the engine's threads
        self.settings = settings
        self.ready = False
        self.chunk: Chunk | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, settings), name="embedrt worker", daemon=True)
        try:
            with _interrupts_blocked():
                self.process.start()
        finally:
            theirs.close()  # so that the end of the process is the end of the pipe

    @property
    def idle(self) -> bool:
        """True if the worker is ready and has no chunk."""
        return self.ready and self.chunk is None

    def send(self, chunk: Chunk) -> None:
        """Send a chunk to the worker. If it is dead, the next `receive` returns None."""
        self.chunk = chunk
        with suppress(OSError):
            self.connection.send(chunk)

    def receive(self) -> "Ready | Result | Failure | None":
        """Receive the worker's message; None if it is dead."""
        try:
            message: Ready | Result | Failure | None = self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None
        return message

    def stop(self, patience: float = 0.0) -> int:
        """Wait up to `patience` seconds, then kill the process; return its exit code."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        self.connection.close()
        return code


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let a process begin with SIGINT blocked, as Ctrl-C may reach it before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sharing(placements: Sequence[Mapping[str, Placement]]) -> list[dict[str, Placement]]:
    """Divide the threads among the processes that compute on CPU cores."""

    def uses_cores(placed: Mapping[str, Placement]) -> bool:
        return next(iter(placed.values())).device.uses_cores

    sharing = max(1, sum(map(uses_cores, placements)))
    return [
        {
            name: replace(one, threads=max(1, one.threads // sharing)) if uses_cores(placed) else one
            for name, one in placed.items()
        }
        for placed in placements
    ]


def _stay_at_end() -> None:
    """Keep a thread here once the process ends, which stops the workers without the lock."""
    if is_ending() and threading.current_thread() is not threading.main_thread():
        park()


def _stop_all(workers: list[_Worker | None], process: int) -> None:
    if os.getpid() != process:  # a forked child does not own the workers
        return
    running = [worker for worker in workers if worker is not None]
    workers[:] = [None] * len(workers)
    for worker in running:
        worker.process.kill()
    for worker in running:
        worker.stop()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    names = {-number: number.name for number in signal.Signals}
    hint = ", often the out-of-memory killer: take fewer workers or a smaller max_tokens" if code == _KILLED else ""
    return f"exit code {code} ({names.get(code, 'a signal')}{hint})"


class _RemoteError(Exception):
    """The cause of a reraised exception: the worker's traceback."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _rebuild(failure: Failure, where: str) -> Exception:
    """Rebuild the worker's exception if its class takes a message, else make a PoolError with its text."""
    kind = getattr({"embedrt.errors": errors, "builtins": builtins}.get(failure.module), failure.name, None)
    error: Exception = PoolError(f"{where} with {failure.module}.{failure.name}: {failure.message}")
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):
            error = kind(failure.message)
            error.add_note(where)
    error.__cause__ = _RemoteError(failure.trace)
    return error

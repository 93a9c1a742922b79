"""`ProcessPool`: encodes on several processes, each with its own copy of the model."""

import builtins
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from embedrt import errors
from embedrt.engine.devices import find_device
from embedrt.engine.machine import available_threads, cuda_devices, require_process
from embedrt.errors import PoolError
from embedrt.run.request import Request, Result
from embedrt.run.worker import Chunk, Failure, Ready, Settings, serve
from embedrt.tune import result as tuned
from embedrt.tune.result import Tuning

# As sentence-transformers: ten chunks for each worker, and none larger than this.
_CHUNKS_EACH, _LARGEST_CHUNK = 10, 5000
# Devices whose workers share the processors.
_PROCESSORS = ("cpu", "openvino", "openvino:CPU")
# Workers by default where there is no GPU, at most.
_CPU_WORKERS = 4
# Seconds that a worker whose pipe is closed may take to end by itself, for the sake of its exit code.
_LAST_BREATH = 5.0
_GUARD = 'if __name__ == "__main__":'
# The exit code of a process that SIGKILL ended.
_KILLED = -9


def default_devices(auto: str | None = None) -> list[str]:
    """Every CUDA device if ONNX Runtime can use them, else a CPU for each processor, at most 4.

    Args:
        auto: What the device "auto" is for the model; on another than these two there is one process.
    """
    device = find_device(auto).name
    if device == "cuda":
        return [f"cuda:{index}" for index in range(max(1, cuda_devices()))]
    return [device] * (min(_CPU_WORKERS, available_threads()) if device == "cpu" else 1)


class ProcessPool:
    """Processes that encode, one for each device named. Start one where `if __name__ == "__main__":` protects it.

    They pay off on several GPUs. On one machine's processors a single process already uses all of them.

    Threads may share a pool; their calls run one after the other. A worker that dies is replaced, and what it had in
    hand is tried once more. A call that ends with an exception stops the workers that are still computing, and the next
    call starts others. Without `close` the processes end with the pool's last reference, or with this process.

    Args:
        folder: The bundle.
        devices: Where to run, a process for each, such as `["cuda:0", "cuda:1"]`. CPU workers share the processors.
        precision: As for `Embedder`.
        threads: Processors to use in all; None takes what affinity and cgroup quota allow.
        max_tokens: Upper bound of a batch's texts times the tokens of its longest, in each process.
        tuning: What was measured for the bundle here; decides where the arguments above leave the choice.

    Attributes:
        devices: The devices, as they are called in messages.
        precision: Which of the graphs runs.
        fingerprint: Of the bundle.

    Raises:
        ValueError: There is no device in the list.
        DeviceError: A device is unknown or not available.
        BundleError: The bundle is damaged.
        PoolError: A worker died before it was ready.
    """

    def __init__(
        self,
        folder: Path,
        devices: Sequence[str | None],
        *,
        precision: str = "float32",
        threads: int | None = None,
        max_tokens: int | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        if isinstance(devices, str) or not devices:
            raise ValueError(f"devices: expected at least one, as in ['cpu', 'cpu'], got {devices!r}")
        settled = [tuned.settled(tuning, precision, name, threads, max_tokens) for name in devices]
        self.devices = [find_device(name).name for name, _, _ in settled]
        self.precision = precision
        self.fingerprint: str | None = None
        sharing = max(1, sum(device in _PROCESSORS for device in self.devices))
        self._settings = [
            Settings(
                folder.absolute(),
                device,
                precision,
                max(1, (count or available_threads()) // sharing) if device in _PROCESSORS else count,
                budget,
            )
            for device, (_, count, budget) in zip(self.devices, settled, strict=True)
        ]
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._workers: list[_Worker | None] = [None] * len(devices)
        self._finalizer = weakref.finalize(self, _stop_all, self._workers, self._process)
        try:
            self._start_missing()
            while not all(worker.ready for worker in self._working()):
                for worker, message in self._heard():
                    self._take_start(worker, message)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """The ids of the processes."""
        return [worker.process.pid or 0 for worker in self._working()]

    def close(self) -> None:
        """Stops the processes, after the calls of other threads; calls after it are errors."""
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
        """Computes outputs of the graph and gathers them, as `Runner.run` does.

        Args:
            texts: The texts, without the prompt.
            request: The options.
            route: The route that computes it.
            chunk_size: Texts that a process takes at a time; None takes ten chunks a process, of 5000 at most.
            advance: Called with the number of texts whenever a chunk is done.

        Raises:
            TruncationError: A text is cut off, and the request refuses that.
            NonFiniteError: The model returned NaN or infinity.
            PoolError: The pool is closed, or two workers died of the same chunk.
        """
        size = chunk_size or max(1, min(ceil(len(texts) / len(self.devices) / _CHUNKS_EACH), _LARGEST_CHUNK))
        chunks = [Chunk(route, texts[start : start + size], request, start) for start in range(0, len(texts), size)]
        require_process(self._process)
        with self._lock:
            if not self._finalizer.alive:
                raise PoolError("the pool is closed; start another one")
            try:
                return self._collect(chunks, request, advance)
            except BaseException:
                self._stop_busy()
                raise

    def _collect(self, chunks: list[Chunk], request: Request, advance: Callable[[int], Any]) -> Result:
        """Keeps every worker busy until all chunks are done."""
        total, left = sum(len(chunk.texts) for chunk in chunks), len(chunks)
        values = request.gather.start(total)
        truncated: list[int] = []
        waiting, suspects = deque(chunks), set[int]()
        for worker in self._working():
            if not worker.process.is_alive():  # since the last call, of which nothing is left to do
                self._bury(worker)
        self._start_missing()
        while left:
            for worker in self._working():
                if waiting and worker.idle:
                    worker.give(waiting.popleft())
            for worker, message in self._heard():
                chunk = worker.chunk
                if chunk is None:
                    self._take_start(worker, message)
                elif isinstance(message, Result):
                    worker.chunk = None
                    values[chunk.first : chunk.first + len(chunk.texts)] = message.values
                    truncated += message.truncated
                    left -= 1
                    advance(len(chunk.texts))
                elif isinstance(message, Failure):
                    worker.chunk = None
                    raise _rebuilt(message, f"{chunk}: a worker on {worker.settings.device!r} failed")
                else:
                    code = self._bury(worker)
                    if chunk.first in suspects:
                        raise PoolError(f"{chunk}: two workers died of it, the second with {_ending(code)}")
                    suspects.add(chunk.first)
                    waiting.appendleft(chunk)
                    self._start_missing()
        return Result(values, sorted(truncated))

    def _working(self) -> list["_Worker"]:
        return [worker for worker in self._workers if worker is not None]

    def _heard(self) -> Iterator[tuple["_Worker", "Ready | Result | Failure | None"]]:
        """Waits until some of the workers that owe a message send it or die."""
        sources = {
            source: worker
            for worker in self._working()
            if not worker.idle
            for source in (worker.connection, worker.process.sentinel)
        }
        for worker in dict.fromkeys(sources[source] for source in wait(list(sources))):  # type: ignore[index]
            yield worker, worker.hear()

    def _start_missing(self) -> None:
        """Starts a worker in every place that has none."""
        for place, worker in enumerate(self._workers):
            if worker is None:
                self._workers[place] = _Worker(self._settings[place])

    def _take_start(self, worker: "_Worker", message: "Ready | Result | Failure | None") -> None:
        device = worker.settings.device
        if isinstance(message, Failure):
            raise _rebuilt(message, f"a worker on {device!r} could not start")
        if not isinstance(message, Ready):
            code = self._bury(worker)
            hint = "" if code < 0 else f". A script must start its pool below `{_GUARD}`: each worker imports it too"
            raise PoolError(f"a worker on {device!r} ended before it was ready, with {_ending(code)}{hint}")
        if self.fingerprint not in {None, message.fingerprint}:
            raise PoolError(f"{worker.settings.folder}: another bundle than when the pool started; start a new pool")
        self.fingerprint = message.fingerprint
        worker.ready = True

    def _stop_busy(self) -> None:
        """Stops the workers from which something is still to come, so that the next call hears only its own."""
        busy = [worker for worker in self._working() if not worker.idle]
        for worker in busy:
            worker.process.kill()
        for worker in busy:
            self._bury(worker)

    def _bury(self, worker: "_Worker") -> int:
        """Makes room for another; returns the worker's exit code."""
        self._workers[self._workers.index(worker)] = None
        return worker.stop(_LAST_BREATH)


class _Worker:
    """A process of the pool, with the pipe to it.

    Attributes:
        settings: What it loads.
        connection: The pipe.
        process: The process.
        ready: Whether it has loaded the bundle.
        chunk: What it computes.
    """

    def __init__(self, settings: Settings) -> None:
        context = get_context("spawn")  # a forked child has neither the tokenizer's nor the engine's threads
        self.settings = settings
        self.ready = False
        self.chunk: Chunk | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, settings), name="embedrt worker", daemon=True)
        try:
            self.process.start()
        finally:
            theirs.close()  # so that the end of the process is the end of the pipe

    @property
    def idle(self) -> bool:
        """Whether the worker owes nothing."""
        return self.ready and self.chunk is None

    def give(self, chunk: Chunk) -> None:
        """Lets the worker compute the chunk. If it is dead, `hear` tells."""
        self.chunk = chunk
        with suppress(OSError):
            self.connection.send(chunk)

    def hear(self) -> "Ready | Result | Failure | None":
        """What the worker says; None if it is dead."""
        try:
            message: Ready | Result | Failure | None = self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None
        return message

    def stop(self, patience: float = 0.0) -> int:
        """Waits for so many seconds, then kills; returns the exit code."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        self.connection.close()
        return code


def _stop_all(workers: list[_Worker | None], process: int) -> None:
    if os.getpid() != process:  # a forked child, to which they do not belong
        return
    running = [worker for worker in workers if worker is not None]
    workers[:] = [None] * len(workers)
    for worker in running:
        worker.process.kill()
    for worker in running:
        worker.stop()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    names = {-number: number.name for number in signal.Signals}
    hint = ", often the out-of-memory killer: take fewer workers or a smaller max_tokens" if code == _KILLED else ""
    return f"exit code {code} ({names.get(code, 'a signal')}{hint})"


class _RemoteError(Exception):
    """The cause of an exception that is raised here: the worker's, with its traceback."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _rebuilt(failure: Failure, where: str) -> Exception:
    """The worker's exception, if its class can be made from a message; else a PoolError with its text."""
    kind = getattr({"embedrt.errors": errors, "builtins": builtins}.get(failure.module), failure.name, None)
    error: Exception = PoolError(f"{where} with {failure.module}.{failure.name}: {failure.message}")
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):
            error = kind(failure.message)
            error.add_note(where)
    error.__cause__ = _RemoteError(failure.trace)
    return error

"""Ray: actors that load the model once, and take units one after the other.

Options: "address" of a cluster ("auto" for the one of this machine; without it, Ray of this program or a new one),
"workers" (as many as the cluster has CPUs or GPUs for), "cpus" of a worker (1), "gpus" of a worker (0), "ship" (1 sends
the bundle to the workers, for clusters without a shared folder).
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedrt.bulk.engines import Assigned, Work
from embedrt.bulk.engines.options import OptionValue, refuse_unknown, text, whole
from embedrt.bulk.engines.shipping import packed, unpacked
from embedrt.errors import BulkError, EmbedrtError, MissingDependencyError

try:
    import ray
except ImportError as error:
    raise MissingDependencyError("Ray is not installed; run `pip install ray`") from error

_KNOWN = ("address", "workers", "cpus", "gpus", "ship")
# Units of an actor at once: while the model computes one, another is read or written.
_IN_FLIGHT = 2
# Attempts after the first one: a unit that kills its actor each time, as by its memory, ends the job.
_RETRIES = 3
# So that a signal handler of the program gets its turn.
_POLL_SECONDS = 0.2


class _Worker:
    """The actor."""

    def __init__(self, work: Work[Any, Any], threads: int, archive: Any) -> None:
        self._work = work
        self._threads = threads
        self._archive = archive
        self._lock = threading.Lock()
        self._opened: Callable[[Any], Any] | None = None

    def compute(self, item: Any) -> tuple[Any, EmbedrtError | None]:
        """The outcome of a unit, or its error: Ray would wrap an error, or start the actor again."""
        try:
            with self._lock:
                if self._opened is None:
                    bundle = None if self._archive is None else str(unpacked(self._archive))
                    # Ray shows an actor without GPUs none, so the device is left to the model.
                    self._opened = self._work.open(Assigned(threads=self._threads, bundle=bundle))
            return self._opened(item), None
        except EmbedrtError as error:
            return None, error


def results(work: Work[Any, Any], items: Iterable[Any], options: Mapping[str, OptionValue]) -> Iterator[Any]:
    """Do work on the actors of a cluster; see `embedrt.bulk.engines.results`."""
    refuse_unknown(options, _KNOWN)
    cpus, gpus = whole(options, "cpus", 1, least=1), whole(options, "gpus", 0)
    started = _connect(text(options, "address"))
    workers: list[Any] = []
    try:
        count = whole(options, "workers", _room(cpus, gpus), least=1)
        archive = ray.put(packed(Path(work.model))) if whole(options, "ship", 0) else None
        actor = ray.remote(_Worker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=_RETRIES,
            max_concurrency=_IN_FLIGHT,
        )
        workers = [actor.remote(work, cpus, archive) for _ in range(count)]
        yield from _spread(workers, items)
    finally:
        for worker in workers:
            ray.kill(worker)
        if started:
            ray.shutdown()


def _connect(address: str | None) -> bool:
    """Connect to a cluster unless the program is connected; True if this call did."""
    if ray.is_initialized():
        return False
    ray.init(address=address, log_to_driver=False)
    return True


def _room(cpus: int, gpus: int) -> int:
    """The number of workers that the cluster has room for."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 1)) // cpus
    if gpus:
        room = min(room, int(resources.get("GPU", 0)) // gpus)
    return max(room, 1)


def _spread(workers: list[Any], items: Iterable[Any]) -> Iterator[Any]:
    """Give every worker its next unit as soon as it is free."""
    free = deque(worker for _ in range(_IN_FLIGHT) for worker in workers)
    running: dict[Any, Any] = {}
    for item in items:
        worker = free.popleft()
        running[worker.compute.remote(item)] = worker
        while not free:
            yield from _done(running, free)
    while running:
        yield from _done(running, free)


def _done(running: dict[Any, Any], free: deque[Any]) -> Iterator[Any]:
    """Wait a moment for units to end; their outcomes."""
    ended, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
    for reference in ended:
        free.append(running.pop(reference))
        try:
            outcome, error = ray.get(reference)
        except ray.exceptions.RayTaskError as failed:
            raise BulkError(f"a worker failed: {failed.cause!r}") from failed
        except ray.exceptions.RayError as died:
            raise BulkError(
                f"a worker died {_RETRIES + 1} times at the same unit, perhaps for lack of memory: {died}"
            ) from died
        if error is not None:
            raise error
        yield outcome

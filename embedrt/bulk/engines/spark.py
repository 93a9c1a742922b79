"""Spark: every unit is a task; a Python worker loads the model once, and keeps it for its later tasks.

Options: "address" of a cluster (a master, or sc:// for Spark Connect; without it, the session of this program or a
local one), "workers" (units at once; as many as Spark has slots for), "ship" (1 sends the bundle to the workers, for
clusters without a shared folder; not with Spark Connect).
"""

import hashlib
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.engines import Assigned, Work
from embedrt.bulk.engines.options import OptionValue, refuse_unknown, text, whole
from embedrt.bulk.engines.shipping import packed, unpacked
from embedrt.errors import BulkError, EmbedrtError, MissingDependencyError

try:
    from pyspark import SparkFiles, TaskContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
except ImportError as error:
    raise MissingDependencyError("Spark is not installed; run `pip install pyspark`") from error

_KNOWN = ("address", "workers", "ship")
# A local Spark gives up a task at its first failure unless told otherwise; clusters try four times.
_LOCAL = "local[*,4]"
# So that a signal handler of the program gets its turn.
_POLL_SECONDS = 0.2


class _Task:
    """The function of a task, for `DataFrame.mapInArrow`: units in, outcomes out, both pickled.

    Args:
        work: The work, pickled: so the model that it opens is found by its bytes.
        archive: The name of the bundle's archive, or None.
    """

    def __init__(self, work: bytes, archive: str | None) -> None:
        self._work = work
        self._archive = archive

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            outcomes = [self._outcome(pickle.loads(item)) for item in batch.column(0).to_pylist()]  # noqa: S301
            yield pa.RecordBatch.from_pydict({"outcome": pa.array(map(pickle.dumps, outcomes), pa.binary())})

    def _outcome(self, item: Any) -> tuple[Any, EmbedrtError | None]:
        """The outcome of a unit, or its error: Spark would try again what fails each time."""
        try:
            return _opened(self._work, self._archive)(item), None
        except EmbedrtError as error:
            return None, error


@lru_cache(maxsize=1)  # a model is large
def _opened(work: bytes, archive: str | None) -> Callable[[Any], Any]:
    """The work of a job, opened once in this Python worker."""
    task = TaskContext.get()
    cpus, gpus = (task.cpus(), task.resources().get("gpu")) if task else (1, None)
    bundle = None if archive is None else str(unpacked(Path(SparkFiles.get(archive)).read_bytes()))
    device = f"cuda:{gpus.addresses[0]}" if gpus else None
    opened: Callable[[Any], Any] = pickle.loads(work).open(Assigned(cpus, device, bundle))  # noqa: S301
    return opened


def results(work: Work[Any, Any], items: Iterable[Any], options: Mapping[str, OptionValue]) -> Iterator[Any]:
    """Do work as tasks of a cluster; see `embedrt.bulk.engines.results`."""
    refuse_unknown(options, _KNOWN)
    with ExitStack() as stack:
        session = _session(text(options, "address"), stack)
        count = whole(options, "workers", _slots(session) if "workers" not in options else 1, least=1)
        archive = _shipped(session, Path(work.model), stack) if whole(options, "ship", 0) else None
        yield from _spread(session, _Task(pickle.dumps(work), archive), items, count)


def _session(address: str | None, stack: ExitStack) -> Any:
    """The session of this program, or a new one that ends with the job."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    builder = SparkSession.builder.appName("embedrt bulk")
    if address is not None and address.startswith("sc://"):
        builder = builder.remote(address)
    else:
        builder = builder.master(address or _LOCAL)
    if address is None:
        # Spark takes the python3 of the PATH otherwise.
        builder = builder.config("spark.pyspark.python", sys.executable)
    session = builder.getOrCreate()
    stack.callback(session.stop)
    return session


def _slots(session: Any) -> int:
    """The number of tasks that run at once."""
    try:
        context = session.sparkContext
    except PySparkException as error:
        raise ValueError("engine option 'workers': Spark Connect does not tell the number of slots; give it") from error
    cpus = int(context.getConf().get("spark.task.cpus", "1"))
    return max(int(context.defaultParallelism) // cpus, 1)


def _shipped(session: Any, bundle: Path, stack: ExitStack) -> str:
    """Send the bundle to all workers; the name of its archive."""
    archive = packed(bundle)
    folder = Path(stack.enter_context(TemporaryDirectory()))
    file = folder / f"embedrt-{hashlib.sha256(archive).hexdigest()[:32]}.tar"
    file.write_bytes(archive)
    session.sparkContext.addFile(str(file))
    return file.name


def _spread(session: Any, task: _Task, items: Iterable[Any], count: int) -> Iterator[Any]:
    """Submit so many units at once, from a thread each. A unit is a job of Spark, so that its outcome comes at once."""
    outcomes: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    waiting, lock, stopped = iter(items), threading.Lock(), threading.Event()
    end = object()

    def submit() -> None:
        try:
            while not stopped.is_set():
                with lock:
                    item = next(waiting, end)
                if item is end:
                    break
                outcomes.put(_submitted(session, task, item))
        except BaseException as error:  # noqa: BLE001 - raised where the outcomes are taken
            outcomes.put((None, error))
        outcomes.put((end, None))

    threads = [threading.Thread(target=submit, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        running = count
        while running:
            try:
                outcome, error = outcomes.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            if outcome is end:
                running -= 1
            else:
                yield outcome
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _submitted(session: Any, task: _Task, item: Any) -> tuple[Any, BaseException | None]:
    """The outcome of a unit, computed by a job of Spark."""
    frame = session.createDataFrame([(pickle.dumps(item),)], "item binary").coalesce(1)
    try:
        (row,) = frame.mapInArrow(task, "outcome binary").collect()
    except Exception as error:  # noqa: BLE001 - py4j's and Spark's
        return None, BulkError(f"a task of Spark failed: {error}")
    outcome: tuple[Any, BaseException | None] = pickle.loads(bytes(row.outcome))  # noqa: S301 - this job's own
    return outcome

"""The engine of one machine: rows are read ahead of the model and written behind it, each by a thread."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from embedrt.bulk.manifest import Line
from embedrt.bulk.progress import Progress
from embedrt.bulk.reading import Reader
from embedrt.bulk.rows import TABLE
from embedrt.bulk.task import Making, Task, windows
from embedrt.bulk.transform import Known, Transform, Transformed

_WINDOWS = 3
"""Windows of rows in memory: one that is read, one in the model, one that is written."""


class Pipeline:
    """Computes units in order. Two threads are beside the caller's, in which the model runs.

    A unit is a number of tables, then None in place of one. The queues are bounded by the semaphore: a room is taken
    before a table is read, and given back once its result is written.

    Args:
        transform: The transform.
        tasks: The units.
        known: A table of results.
        commit: Function that takes the line of a part once it is in place, in the thread that wrote it.
        stopped: Function that returns True to end after the unit in the model.
        shown: The display that takes what is done of units in the model.
    """

    def __init__(
        self,
        transform: Transform,
        tasks: Iterable[Task],
        known: Known | None,
        commit: Callable[[Line], None],
        stopped: Callable[[], bool],
        shown: Progress,
    ) -> None:
        self._transform = transform
        self._tasks = tasks
        self._known = known
        self._commit = commit
        self._stopped = stopped
        self._shown = shown
        self._rooms = threading.Semaphore(_WINDOWS)
        self._ahead: queue.SimpleQueue[tuple[Task, Any] | None] = queue.SimpleQueue()
        self._behind: queue.SimpleQueue[tuple[Task, Transformed | None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failures: list[BaseException] = []

    def run(self) -> None:
        """Compute the units.

        Raises:
            BulkError: A unit cannot be read, computed or written. The units before it are whole.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"embedrt-bulk-{name}", daemon=True)
            for name, work in (("read", self._read), ("write", self._write))
        ]
        for thread in threads:
            thread.start()
        try:
            self._compute()
        finally:  # units that were computed are written, whatever ends the job
            self._closing.set()
            self._rooms.release()
            self._behind.put(None)
            for thread in reversed(threads):
                thread.join()
        if self._failures:
            raise self._failures[0]

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run the work of a thread, and wake the others at its end."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            self._failures.append(error)
            if work == self._write:
                self._closing.set()
                self._rooms.release()
        self._ahead.put(None)

    def _read(self) -> None:
        with contextlib.closing(Reader()) as reader:
            for task in self._tasks:
                rows = windows(self._transform, task, reader)
                more = True
                while more:
                    self._rooms.acquire()
                    if self._closing.is_set():
                        return
                    table = next(rows, None)
                    more = table is not None
                    self._ahead.put((task, table))
                    del table
                self._rooms.release()

    def _compute(self) -> None:
        row: int | None = None  # the next row of a unit that was begun
        places = TABLE
        while row is not None or not self._stopped():
            entry = self._ahead.get()
            if entry is None or self._closing.is_set() or (row is None and self._stopped()):
                return
            task, table = entry
            del entry
            if table is None:
                self._behind.put((task, None))
                row = None
                continue
            if row is None:
                row, places = task.unit.start, task.places
            advance = partial(self._shown.batch, task.unit.number)
            outcome = self._transform(table, places=places, first_row=row, known=self._known, advance=advance)
            self._shown.window(task.unit.number, outcome.facts)
            row += table.num_rows
            del table
            self._behind.put((task, outcome))
            del outcome

    def _write(self) -> None:
        while (entry := self._behind.get()) is not None:
            with Making(self._transform, entry[0]) as making:
                while entry[1] is not None:
                    making.add(entry[1])
                    entry = None
                    self._rooms.release()
                    entry = self._behind.get()
                    if entry is None:  # in the middle of a unit
                        return
                self._commit(making.commit())

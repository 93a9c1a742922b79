"""`Team`: threads for the batches of one call.

It is made of C code alone, unlike a `ThreadPoolExecutor`, so that an interrupt cannot break its locks, nor get lost in
the callback of a weak reference to a `Thread`. Its threads do not keep the process from ending.
"""

from _thread import start_new_thread
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Self


class Task:
    """A task of a team.

    Args:
        function: The function to call, which returns a number.
    """

    def __init__(self, function: Callable[[], int]) -> None:
        self._function = function
        self._outcome: SimpleQueue[int | BaseException] = SimpleQueue()

    def run(self) -> None:
        """Call the function, and keep its outcome."""
        try:
            self._outcome.put(self._function())
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._outcome.put(error)

    def result(self) -> int:
        """Wait for the outcome, and return or raise it; for one call."""
        outcome = self._outcome.get()
        if not isinstance(outcome, BaseException):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # it has this frame in its traceback


class Team:
    """Threads that run tasks. At the end of its `with` block, tasks that have not begun are dropped.

    Args:
        size: Maximum number of threads; they start as tasks arrive.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._working: list[Lock] = []  # one for each thread, which holds it

    def start(self, function: Callable[[], int]) -> Task:
        """Queue a task."""
        task = Task(function)
        self._tasks.put(task)
        if len(self._working) < self._size:
            works = Lock()
            works.acquire()
            start_new_thread(_work, (self._tasks, works))
            self._working.append(works)
        return task

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while _next(self._tasks) is not None:
            pass
        self._tasks.put(None)
        for works in self._working:
            works.acquire()


def _work(tasks: SimpleQueue[Task | None], works: Lock) -> None:
    while (task := tasks.get()) is not None:
        task.run()
    tasks.put(None)  # for the next thread
    works.release()


def _next(tasks: SimpleQueue[Task | None]) -> Task | None:
    try:
        return tasks.get_nowait()
    except Empty:
        return None

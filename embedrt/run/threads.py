"""`Team`: threads for the batches of one call.

It is made of C code alone, unlike a `ThreadPoolExecutor`, so that an interrupt cannot break its locks, nor get lost in
the callback of a weak reference to a `Thread`. Its threads do not keep the process from ending.
"""

from _thread import start_new_thread
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Self
from weakref import ref

# A team that was interrupted at its end is dropped without a word to its threads, which look after so many seconds.
_IDLE_SECONDS = 1.0


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


_END = Task(int)  # the end of a team


class Team:
    """Threads that run tasks. At the end of its `with` block, tasks that have not begun are dropped.

    Args:
        size: Maximum number of threads; they start as tasks arrive.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        self._working: list[Lock] = []  # one for each thread, which holds it

    def start(self, function: Callable[[], int]) -> Task:
        """Queue a task."""
        task = Task(function)
        self._tasks.put(task)
        if len(self._working) < self._size:
            works = Lock()
            works.acquire()
            start_new_thread(_work, (self._tasks, works, ref(self)))
            self._working.append(works)
        return task

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while _next(self._tasks, 0.0) is not None:
            pass
        self._tasks.put(_END)
        for works in self._working:
            works.acquire()


def _work(tasks: SimpleQueue[Task], works: Lock, team: ref[Team]) -> None:
    while (task := _next(tasks, _IDLE_SECONDS)) is not None or team() is not None:
        if task is _END:
            tasks.put(_END)  # for the next thread
            break
        if task is not None:
            task.run()
    works.release()


def _next(tasks: SimpleQueue[Task], seconds: float) -> Task | None:
    """The next task, or None if there is none for so long."""
    try:
        return tasks.get(timeout=seconds)
    except Empty:
        return None

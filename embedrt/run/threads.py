"""`Team`: threads for the batches of one call, and for the texts that come next.

It is made of C code alone, unlike a `ThreadPoolExecutor`, so that an interrupt cannot break its locks, nor get lost in
the callback of a weak reference to a `Thread`. Its threads do not keep the process from ending.
"""

from _thread import start_new_thread
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import chain, islice
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, Self, TypeVar
from weakref import ref

from embedrt.engine.native import is_ending
from embedrt.engine.task import Task

_Item = TypeVar("_Item")
_Returned = TypeVar("_Returned")

# A team that was interrupted at its end is dropped without a word to its threads, which look after so many seconds.
_IDLE_SECONDS = 1.0


_END: Task[Any] = Task(int)  # the end of a team


class Team:
    """Threads that run tasks. At the end of its `with` block, tasks that have not begun are dropped.

    Args:
        size: Maximum number of threads; they start as tasks arrive.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tasks: SimpleQueue[Task[Any]] = SimpleQueue()
        self._working: list[Lock] = []  # one for each thread, which holds it

    def start(self, function: Callable[[], _Returned]) -> Task[_Returned]:
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


def ahead(function: Callable[[_Item], _Returned], items: Iterator[_Item]) -> Generator[_Returned]:
    """Apply a function to items, in order. While the caller handles one result, a thread computes the next.

    A single item is left to this thread; so are all at the end of the process, when other threads are kept from native
    code.
    """
    first = [*islice(items, 2)]
    rest = chain(first, items)
    if len(first) < 2 or is_ending():
        yield from map(function, rest)
        return
    with Team(1) as team:
        tasks = (team.start(partial(function, item)) for item in rest)
        task = next(tasks)
        for following in tasks:
            yield task.result()
            task = following
        yield task.result()


def _work(tasks: SimpleQueue[Task[Any]], works: Lock, team: ref[Team]) -> None:
    while (task := _next(tasks, _IDLE_SECONDS)) is not None or team() is not None:
        if task is _END:
            tasks.put(_END)  # for the next thread
            break
        if task is not None:
            task.run()
    works.release()


def _next(tasks: SimpleQueue[Task[Any]], seconds: float) -> Task[Any] | None:
    """The next task, or None if there is none for so long."""
    try:
        return tasks.get(timeout=seconds)
    except Empty:
        return None

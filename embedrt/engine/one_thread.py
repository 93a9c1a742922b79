"""`OneThread`: a thread that calls functions one after the other, for what is bound to the thread that made it.

It is made of C code alone, so that an interrupt of a waiting thread cannot break a lock. The thread does not keep the
process from ending, and it ends with its object.
"""

from _thread import start_new_thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar
from weakref import ref

from embedrt.engine.task import Task

_Returned = TypeVar("_Returned")


class OneThread:
    """A thread that calls functions, one after the other, for any number of threads."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[object] = SimpleQueue()
        # The thread keeps the reference, whose callback puts it into the queue: the end of the tasks.
        start_new_thread(_serve, (self._tasks, ref(self, self._tasks.put)))

    def call(self, function: Callable[[], _Returned]) -> _Returned:
        """Call a function in the thread, and return or raise its outcome.

        A caller that is interrupted leaves; the function is called all the same.
        """
        task = Task(function)
        self._tasks.put(task)
        return task.result()


def _serve(tasks: SimpleQueue[object], _owner: ref[OneThread]) -> None:
    while isinstance(task := tasks.get(), Task):
        task.run()
        del task  # what a task holds is freed before the next one comes

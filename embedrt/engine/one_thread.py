"""`OneThread`: a thread that calls functions one after the other, for what is bound to the thread that made it.

It is made of C code alone, so that an interrupt of a waiting thread cannot break a lock. The thread does not keep the
process from ending, and it ends with its object.
"""

from _thread import start_new_thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import ref

_Returned = TypeVar("_Returned")


class _Job:
    """A function to call, and its outcome: a tuple with its result, or its exception."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.outcome: SimpleQueue[tuple[Any] | BaseException] = SimpleQueue()

    def run(self) -> None:
        try:
            self.outcome.put((self._function(),))
        except BaseException as error:  # noqa: BLE001 - `call` raises it
            self.outcome.put(error)


class OneThread:
    """A thread that calls functions, one after the other, for any number of threads."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[object] = SimpleQueue()
        # The thread keeps the reference, whose callback puts it into the queue: the end of the jobs.
        start_new_thread(_serve, (self._jobs, ref(self, self._jobs.put)))

    def call(self, function: Callable[[], _Returned]) -> _Returned:
        """Call a function in the thread, and return or raise its outcome.

        A caller that is interrupted leaves; the function is called all the same.
        """
        job = _Job(function)
        self._jobs.put(job)
        outcome = job.outcome.get()
        if isinstance(outcome, tuple):
            result: _Returned = outcome[0]
            return result
        try:
            raise outcome
        finally:
            del outcome  # it has this frame in its traceback


def _serve(jobs: SimpleQueue[object], _owner: ref[OneThread]) -> None:
    while isinstance(job := jobs.get(), _Job):
        job.run()
        del job  # what a job holds is freed before the next one comes

"""`Task`: a function that one thread calls and whose outcome another one takes."""

from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

_Returned = TypeVar("_Returned")


class Task(Generic[_Returned]):
    """A task of a team.

    Args:
        function: The function to call.
    """

    def __init__(self, function: Callable[[], _Returned]) -> None:
        self._function = function
        self._outcome: SimpleQueue[tuple[_Returned] | BaseException] = SimpleQueue()

    def run(self) -> None:
        """Call the function, and keep its outcome."""
        try:
            self._outcome.put((self._function(),))
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._outcome.put(error)

    def result(self) -> _Returned:
        """Wait for the outcome, and return or raise it; for one call."""
        outcome = self._outcome.get()
        if not isinstance(outcome, BaseException):
            return outcome[0]
        try:
            raise outcome
        finally:
            del outcome  # it has this frame in its traceback

"""Work without a model, for engines."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedrt.bulk.engines import Assigned
from embedrt.errors import BulkError


@dataclass(frozen=True)
class Squares:
    """Numbers to their squares.

    Attributes:
        model: A folder to ship.
        folder: A folder for the marks of workers that died and of computed numbers.
        deadly: The number at which the first worker that gets it dies.
        failing: The number that has no result.
    """

    model: str
    folder: str
    deadly: int = -1
    failing: int = -1

    def open(self, assigned: Assigned) -> Callable[[int], tuple[int, int, Assigned]]:
        """See `Work`."""

        def square(number: int) -> tuple[int, int, Assigned]:
            mark = Path(self.folder, "died")
            if number == self.deadly and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.failing:
                raise BulkError(f"number {number}: expected another one")
            return number * number, os.getpid(), assigned

        return square

"""Signals that end a run after the unit that it computes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A request to end.

    Attributes:
        number: The signal that asked for it; None until then.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._event = threading.Event()

    def request(self, number: int) -> None:
        """Ask for the end."""
        self.number = number
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()


@contextmanager
def finishing(said: Callable[[str], None]) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask for the end of a `with` block, and the second one end it at once.

    In a thread other than the main one, signals stay as they are.

    Args:
        said: Function that shows a message.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if stop:
            raise ending(number)
        stop.request(number)
        said(f"{signal.Signals(number).name}: finishing the unit; the next signal ends at once")

    before = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        for number in _STOPPING:
            signal.signal(number, handle)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ending(number: int) -> BaseException:
    """The exception by which a program ends after a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)

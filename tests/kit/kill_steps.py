"""A process that is killed before every step that it takes on the disk, one step after the other.

The steps are the audit events of Python: files opened to be written, renamed, removed, made or changed.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def kill_at_every_step(prepare: Callable[[], Any], act: Callable[[], Any], check: Callable[[], Any]) -> int:
    """Run `act` in forked children, each killed one step later; check what every one left.

    To be called in a process without threads.

    Args:
        prepare: Function that makes the state before.
        act: The function to kill.
        check: Function that raises if what is left is neither the state before nor the one after.

    Returns:
        The number of steps.
    """
    step = 0
    while True:
        prepare()
        child = os.fork()
        if child == 0:
            _die_before(step)
            try:
                act()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        check()
        if os.WIFEXITED(status):
            return step
        step += 1


def _die_before(step: int) -> None:
    taken = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal taken
        if event in _EVENTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)
            taken += 1

    sys.addaudithook(count)

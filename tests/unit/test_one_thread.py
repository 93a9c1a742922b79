"""One thread calls functions for many, ends with its object, and holds nobody up."""

import _thread
import gc
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from embedrt.engine.one_thread import OneThread

WAIT = 30.0


def until(condition: Callable[[], bool]) -> None:
    turns = threading.Event()
    for _ in range(3000):
        if condition():
            return
        turns.wait(0.01)
    raise AssertionError("it never came")


def test_all_calls_are_made_by_the_same_thread() -> None:
    thread = OneThread()
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: thread.call(threading.get_ident), range(100)))
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_none_is_a_result() -> None:
    assert OneThread().call(lambda: None) is None


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_is_the_callers(error: BaseException) -> None:
    def fail() -> None:
        raise error

    thread = OneThread()
    with pytest.raises(type(error)) as caught:
        thread.call(fail)
    assert caught.value is error
    assert thread.call(lambda: 3) == 3


@pytest.mark.parametrize("cyclic", [False, True])
def test_it_ends_with_its_object(cyclic: bool) -> None:
    before = _thread._count()
    thread = OneThread()
    thread.call(lambda: None)
    assert _thread._count() == before + 1
    if cyclic:
        vars(thread)["self"] = thread
    del thread
    gc.collect()
    until(lambda: _thread._count() == before)


def test_what_a_call_holds_is_freed() -> None:
    class Large:
        pass

    alive = 0

    def enter() -> None:
        nonlocal alive
        alive += 1

    class Counted(Large):
        def __init__(self) -> None:
            enter()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    thread = OneThread()
    held = Counted()
    thread.call(lambda held=held: None)  # type: ignore[misc]
    del held
    until(lambda: alive == 0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupted_caller_leaves() -> None:
    """The function goes on; the next caller waits for it and gets its own result."""
    go_on = threading.Event()
    thread = OneThread()

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            thread.call(lambda: go_on.wait(WAIT))
        assert time.monotonic() - start < WAIT / 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    go_on.set()
    assert thread.call(lambda: "mine") == "mine"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_a_signal_handler_may_call_too() -> None:
    thread, go_on, found = OneThread(), threading.Event(), []

    def handle(_: int, __: FrameType | None) -> None:
        go_on.set()
        found.append(thread.call(lambda: "inner"))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert thread.call(lambda: go_on.wait(WAIT)) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found == ["inner"]

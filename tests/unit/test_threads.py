"""Threads for the batches of one call."""

import gc
import threading
from contextlib import closing

import pytest

from embedrt.run import threads
from embedrt.run.threads import Team, ahead


def test_tasks_run_on_as_many_threads_as_asked_for() -> None:
    with Team(2) as team:
        tasks = [team.start(lambda i=i: i * i) for i in range(20)]  # type: ignore[misc]
        assert [task.result() for task in tasks] == [i * i for i in range(20)]
        assert len(team._working) == 2


def test_an_exception_is_raised_where_the_result_is_asked_for() -> None:
    with Team(1) as team, pytest.raises(ZeroDivisionError):
        team.start(lambda: 1 // 0).result()


def test_the_threads_of_a_dropped_team_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an interrupt at the first step of `__exit__` leaves it."""
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.01)
    team = Team(1)
    assert team.start(lambda: 7).result() == 7
    (works,) = team._working
    del team
    gc.collect()
    assert works.acquire(timeout=60)


WAIT = 20.0


def test_the_next_item_is_computed_while_one_is_handled() -> None:
    begun = [threading.Event() for _ in range(5)]

    def function(item: int) -> int:
        begun[item].set()
        return item * item

    results = ahead(function, iter(range(5)))
    for item in range(5):
        assert next(results) == item * item
        assert begun[min(item + 1, 4)].wait(WAIT)
    assert list(results) == []


def test_no_more_than_one_result_waits() -> None:
    computed: list[int] = []
    results = ahead(computed.append, iter(range(9)))
    assert [next(results) for _ in range(3)] == [None] * 3
    results.close()
    assert computed in ([0, 1, 2], [0, 1, 2, 3])


@pytest.mark.parametrize("items", [[], [3]])
def test_a_single_item_takes_no_thread(monkeypatch: pytest.MonkeyPatch, items: list[int]) -> None:
    monkeypatch.setattr(threads, "Team", None)
    assert list(ahead(lambda item: (item, threading.get_ident()), iter(items))) == [
        (item, threading.get_ident()) for item in items
    ]


def test_at_the_end_of_the_process_nothing_takes_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "is_ending", lambda: True)
    monkeypatch.setattr(threads, "Team", None)
    assert list(ahead(abs, iter([-1, -2, 3]))) == [1, 2, 3]


def test_an_exception_ahead_is_raised_in_its_turn() -> None:
    results = ahead(lambda item: 1 // item, iter([1, 0, 1]))
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_exception_of_the_caller_waits_for_what_is_in_work() -> None:
    entered, go_on, left = threading.Event(), threading.Event(), []

    def function(item: int) -> None:
        if item:
            entered.set()
            assert go_on.wait(WAIT)
        left.append(item)

    def call() -> None:
        with closing(ahead(function, iter(range(9)))) as results:
            next(results)
            assert entered.wait(WAIT)
            go_on.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call()
    assert left == [0, 1]

"""Threads for the batches of one call."""

import gc

import pytest

from embedrt.run import threads
from embedrt.run.threads import Team


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

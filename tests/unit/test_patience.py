"""Timeouts of the hub's client while embedrt uses it, and after."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from huggingface_hub import close_session, get_session

from embedrt.hub.patience import LongPause, NoAnswer, patience
from tests.kit.hub_server import Hub


@pytest.fixture
def client(hub: Hub) -> Iterator[Any]:
    """The client that the process shares, without connections that would keep the hub from ending."""
    yield get_session()
    close_session()


@pytest.fixture
def seen(client: Any) -> list[dict[str, float | None]]:
    """Timeouts of the requests that the client sends, as a hook beside ours sees them."""
    timeouts: list[dict[str, float | None]] = []
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [lambda answer: timeouts.append(answer.request.extensions["timeout"])]}
    return timeouts


def test_timeouts_are_set_where_there_are_none_and_never_longer(hub: Hub, client: Any, seen: Any) -> None:
    before = client.event_hooks
    with patience(client, 7):
        client.get(hub.url, timeout=None)
        client.get(hub.url, timeout=3, params={"other": 1})
        client.get(hub.url, timeout=60, params={"other": 2})
    client.get(hub.url, timeout=None)
    assert [set(timeouts.values()) for timeouts in seen] == [{7}, {3}, {7}, {None}]
    assert client.event_hooks == before


def test_other_threads_keep_theirs(hub: Hub, client: Any, seen: Any) -> None:
    """A thread that ran before is the caller's own; one that began since works for the operation."""
    with ThreadPoolExecutor(1) as older:
        older.submit(threading.get_ident).result()
        with patience(client, 7), ThreadPoolExecutor(1) as younger:
            for pool, query in ((older, 1), (younger, 2)):
                pool.submit(client.get, hub.url, timeout=None, params={"query": query}).result()
    assert [set(timeouts.values()) for timeouts in seen] == [{None}, {7}]


def test_nested_operations_leave_the_client_as_it_was(client: Any) -> None:
    before = client.event_hooks
    outer, inner = patience(client, 7), patience(client, 3)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert len(client.event_hooks["request"]) == len(before["request"]) + 1
    inner.__exit__(None, None, None)
    assert client.event_hooks == before


def test_the_same_request_is_sent_twice_and_then_no_more(hub: Hub, client: Any) -> None:
    """Unless it goes on at another byte, or the server refused it, which the client may try again."""
    hub.answers = {"GET refused": (503, {})}
    with patience(client, 7):
        for _ in range(5):
            client.get(f"{hub.url}/refused")
        for start in (0, 0, 1, 1, 2):
            client.get(f"{hub.url}/api/validate-yaml", headers={"Range": f"bytes={start}-"})
    with patience(client, 7):
        hub.silent = {"GET silent"}
        for _ in range(2):
            with pytest.raises(Exception, match="timed out"):
                client.get(f"{hub.url}/silent", timeout=0.05)
        with pytest.raises(NoAnswer, match="silent"):
            client.get(f"{hub.url}/silent")


@pytest.mark.parametrize(("pause", "refused"), [("300", False), ("301", True), ("9" * 5000, True), ("soon", False)])
def test_a_pause_without_end(hub: Hub, client: Any, pause: str, refused: bool) -> None:
    hub.answers = {"GET busy": (429, {"Retry_After": pause})}
    with patience(client, 7):
        if refused:
            with pytest.raises(LongPause, match=r"HTTP 429 for /busy; the server asks to wait \d{3,9} s"):
                client.get(f"{hub.url}/busy")
        else:
            assert client.get(f"{hub.url}/busy").status_code == 429

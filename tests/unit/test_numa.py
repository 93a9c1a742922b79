"""NUMA nodes: read from trees that are made up, and sessions on nodes of one core each."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt import Embedder
from embedrt.engine import numa
from embedrt.engine.numa import Node, bound_to, node_of_thread, nodes, parse_list
from tests.kit.sessions import count_sessions

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds threads to cores")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def set_allowed(cores: str) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(parse_list(cores)), raising=False)

    return set_allowed


def tree(
    folder: Path, cores: dict[int, str], distances: list[str], memory: str, mems_allowed: str | None = None
) -> tuple[Path, Path]:
    """`/sys/devices/system/node` of a machine, and `/proc/self/status`."""
    folder.mkdir()
    (folder / "online").write_text(",".join(map(str, cores)) + "\n")
    (folder / "has_memory").write_text(f"{memory}\n")
    for (node, own), row in zip(cores.items(), distances, strict=True):
        (folder / f"node{node}").mkdir()
        (folder / f"node{node}" / "cpulist").write_text(f"{own}\n")
        (folder / f"node{node}" / "distance").write_text(f"{row}\n")
    status = folder / "status"
    status.write_text(f"Name:\tpython\nMems_allowed:\t3\nMems_allowed_list:\t{mems_allowed or memory}\n")
    return folder, status


TWO = {0: "0-3,8-11", 1: "4-7,12-15"}
APART = ["10 21", "21 10"]


def test_two_sockets(tmp_path: Path, allowed: Callable[[str], None]) -> None:
    allowed("0-15")
    expected = (Node(frozenset({0, 1, 2, 3, 8, 9, 10, 11})), Node(frozenset({4, 5, 6, 7, 12, 13, 14, 15})))
    assert nodes(*tree(tmp_path / "node", TWO, APART, "0-1")) == expected


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        ("2-5", (Node(frozenset({2, 3})), Node(frozenset({4, 5})))),
        ("0-3", ()),
        ("12", ()),
    ],
)
def test_affinity_counts(
    affinity: str, expected: tuple[Node, ...], tmp_path: Path, allowed: Callable[[str], None]
) -> None:
    allowed(affinity)
    assert nodes(*tree(tmp_path / "node", TWO, APART, "0-1")) == expected


def test_memory_of_one_node_only(tmp_path: Path, allowed: Callable[[str], None]) -> None:
    """`numactl --membind=0`, or a cpuset: copies of the weights would all lie there."""
    allowed("0-15")
    assert nodes(*tree(tmp_path / "node", TWO, APART, "0-1", mems_allowed="0")) == ()


def test_cores_without_memory_of_their_own(tmp_path: Path, allowed: Callable[[str], None]) -> None:
    allowed("0-5")
    three = {0: "0-1", 1: "2-3", 2: "4-5"}
    assert nodes(*tree(tmp_path / "node", three, ["10 20 20", "20 10 20", "20 20 10"], "0-1")) == ()


def test_memory_without_cores(tmp_path: Path, allowed: Callable[[str], None]) -> None:
    """Expansion cards, and the memory on a package, are nodes too."""
    allowed("0-15")
    found = nodes(*tree(tmp_path / "node", {**TWO, 2: ""}, ["10 21 30", "21 10 30", "30 30 10"], "0-2"))
    assert [len(node.cores) for node in found] == [8, 8]


def test_the_parts_of_a_socket_count_as_one(tmp_path: Path, allowed: Callable[[str], None]) -> None:
    allowed("0-7")
    parts = {0: "0-1", 1: "2-3", 2: "4-5", 3: "6-7"}
    rows = ["10 12 32 32", "12 10 32 32", "32 32 10 12", "32 32 12 10"]
    found = nodes(*tree(tmp_path / "two", parts, rows, "0-3"))
    assert found == (Node(frozenset({0, 1, 2, 3})), Node(frozenset({4, 5, 6, 7})))
    one = ["10 12 12 12", "12 10 12 12", "12 12 10 12", "12 12 12 10"]
    assert nodes(*tree(tmp_path / "one", parts, one, "0-3")) == ()


def test_numbers_of_nodes_with_gaps(tmp_path: Path, allowed: Callable[[str], None]) -> None:
    """As on POWER: distances stand in the order of the nodes, not by their numbers."""
    allowed("0-3")
    assert nodes(*tree(tmp_path / "node", {0: "0-1", 8: "2-3"}, ["10 40", "40 10"], "0,8")) == (
        Node(frozenset({0, 1})),
        Node(frozenset({2, 3})),
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("online", "0-x"),
        ("online", "0"),
        ("has_memory", ""),
        ("node1/distance", "10 far"),
        ("node1/cpulist", "?"),
        ("status", "Name:\tpython\n"),
        ("online", None),
        ("node1/distance", None),
        ("status", None),
    ],
)
def test_what_cannot_be_read_is_one_node(
    file: str, content: str | None, tmp_path: Path, allowed: Callable[[str], None]
) -> None:
    allowed("0-15")
    root, status = tree(tmp_path / "node", TWO, APART, "0-1")
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    assert nodes(root, status) == ()


def test_where_affinity_is_unknown_there_are_no_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert nodes(*tree(tmp_path / "node", TWO, APART, "0-1")) == ()


def test_this_machine_can_be_read() -> None:
    assert len(nodes()) != 1


def listed(numbers: set[int]) -> str:
    """A list as Linux writes it."""
    starts = [n for n in sorted(numbers) if n - 1 not in numbers]
    ends = [n for n in sorted(numbers) if n + 1 not in numbers]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)) + "\n"


@given(st.sets(st.integers(0, 300)))
def test_lists_of_numbers(numbers: set[int]) -> None:
    assert parse_list(listed(numbers)) == numbers


TEXTS = [f"one token {'and a word ' * (i % 9)}" for i in range(60)]


@pytest.fixture
def pair() -> Iterator[tuple[Node, Node]]:
    """Two cores of this machine as two nodes."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two cores are needed")
    yield Node(frozenset({cores[0]})), Node(frozenset({cores[1]}))
    assert sorted(os.sched_getaffinity(0)) == cores


@needs_affinity
class TestSessions:
    def test_a_thread_knows_its_node(self, pair: tuple[Node, Node]) -> None:
        for node in pair:
            with bound_to(node):
                assert os.sched_getaffinity(0) == node.cores
                assert node_of_thread(pair) is node

    def test_a_thread_on_neither_takes_the_first(self, pair: tuple[Node, Node]) -> None:
        others = (Node(frozenset({10**6})), Node(frozenset({10**6 + 1})))
        assert node_of_thread(others) is others[0]

    def test_cores_that_are_gone_bind_nobody(self) -> None:
        before = os.sched_getaffinity(0)
        with bound_to(Node(frozenset({1023}))):
            assert os.sched_getaffinity(0) == before

    def test_each_node_has_weights_of_its_own(
        self, pair: tuple[Node, Node], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Vectors are the same, threads stay unbound, and each session is made on its node, threads and all."""
        one_node = Embedder(tiny_bundle, threads=2)
        expected = one_node.encode(TEXTS, batch_size=4)
        monkeypatch.setattr(numa, "nodes", lambda: pair)
        made: list[tuple[int, frozenset[int]]] = []
        plain = onnxruntime.InferenceSession

        def seen(graph: Any, options: Any, **named: Any) -> Any:
            made.append((options.intra_op_num_threads, frozenset(os.sched_getaffinity(0))))
            return plain(graph, options, **named)

        monkeypatch.setattr(onnxruntime, "InferenceSession", seen)
        two_nodes = Embedder(tiny_bundle, threads=2)
        for node in pair:  # threads inherit it
            with bound_to(node):
                np.testing.assert_array_equal(two_nodes.encode(TEXTS, batch_size=4), expected)
        np.testing.assert_allclose(two_nodes.encode(TEXTS[7]), expected[7], atol=1e-6)
        assert made[:2] == [(1, node.cores) for node in pair]
        assert made[2] in made[:2]
        assert len(made) == 3

    def test_threads_that_fit_one_node_share_one_session(
        self, pair: tuple[Node, Node], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(numa, "nodes", lambda: pair)
        made = count_sessions(monkeypatch)
        embedder = Embedder(tiny_bundle, threads=1)
        for node in pair:
            with bound_to(node):
                embedder.encode(TEXTS, batch_size=4)
        assert len(made) == 1

    def test_a_wide_session_has_the_cores_of_one_node(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cores = frozenset(os.sched_getaffinity(0))
        monkeypatch.setattr(numa, "nodes", lambda: (Node(cores), Node(frozenset({10**6}))))
        made = count_sessions(monkeypatch)
        Embedder(tiny_bundle, threads=len(cores) + 1).encode("one text")
        assert [session.threads for session in made] == [len(cores)]

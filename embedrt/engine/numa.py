"""NUMA nodes: cores and the memory near to them, and weights on the node of the thread that reads them.

A core reads the memory of its own socket faster than that of another socket. Weights lie where the thread that packed
them ran, and every batch reads all of them. So a machine of several sockets gets a copy of the packed weights on each,
and a batch takes the copy of the node that its thread runs on. Threads are not bound to cores: the kernel seldom moves
a busy thread to another socket, and its next batch takes the copy there.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_NODES = Path("/sys/devices/system/node")
_STATUS = Path("/proc/self/status")
# Distances are the firmware's: 10 is the node itself, 11 to 15 another part of its socket, 20 or more another socket.
_ANOTHER_SOCKET = 16


@dataclass(frozen=True)
class Node:
    """A NUMA node, or all nodes of a socket that is divided into several.

    Attributes:
        cores: The cores of it that this process may run on.
    """

    cores: frozenset[int]


def nodes(root: Path = _NODES, status: Path = _STATUS) -> tuple[Node, ...]:
    """The nodes whose cores and memory this process may use; empty if there is only one, or if they are unknown.

    Affinity counts, and with it cgroup cpusets and `numactl`. So does the memory that they allow.

    Args:
        root: The folder where Linux describes the nodes.
        status: The file that lists the nodes whose memory this process may use.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = os.sched_getaffinity(0)
    cores: dict[int, frozenset[int]] = {}  # by the first node of the socket
    try:
        online = sorted(parse_list((root / "online").read_text()))
        memory = parse_list((root / "has_memory").read_text()) & parse_list(_field(status, "Mems_allowed_list"))
        for node in sorted(memory):
            distances = (root / f"node{node}" / "distance").read_text().split()
            near = {other for other, far in zip(online, distances, strict=True) if int(far) < _ANOTHER_SOCKET}
            first = min(near & memory)
            own = parse_list((root / f"node{node}" / "cpulist").read_text()) & allowed
            cores[first] = cores.get(first, frozenset()) | own
    except (OSError, ValueError):
        return ()
    found = tuple(Node(own) for own in cores.values() if own)
    # Cores whose memory is that of another node make the nodes a poor guide.
    is_whole = frozenset().union(*cores.values()) == allowed
    return found if len(found) > 1 and is_whole else ()


def parse_list(text: str) -> frozenset[int]:
    """The numbers in a list such as "0-3,8,10-11", as Linux writes cores and nodes.

    Raises:
        ValueError: The text is no such list.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return frozenset(found)


def _field(status: Path, name: str) -> str:
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    raise ValueError(f"{status}: expected the field {name}")


def node_of_thread(among: Sequence[Node]) -> Node:
    """The node that this thread runs on, or the first one if it runs on none of them."""
    core = _current_core()()
    return next((node for node in among if core in node.cores), among[0])


@cache
def _current_core() -> Any:
    return ctypes.PyDLL(None).sched_getcpu  # takes less than giving up the GIL for it


@contextmanager
def bound_to(node: Node | None) -> Iterator[None]:
    """Run this thread on a node, with the memory that it writes first and the threads that it starts.

    Without a node, or where the node's cores were taken from the process meanwhile, the thread stays as it is.
    """
    if node is None:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        with suppress(OSError):
            os.sched_setaffinity(0, node.cores)
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)

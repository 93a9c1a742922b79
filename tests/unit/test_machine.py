"""Processors: cgroup trees of both versions, written as the kernel shows them, and the affinity."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedrt.engine import machine
from embedrt.engine.machine import affinity, available_threads, cpu_model, quota


class Tree:
    """A fake `/sys/fs/cgroup` and `/proc/self/cgroup`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.membership = folder / "membership"
        self.root.mkdir()

    def v2(self, group: str, content: str) -> None:
        self._write(self.root / group / "cpu.max", content)

    def v1(self, group: str, granted: str, period: str) -> None:
        self._write(self.root / "cpu" / group / "cpu.cfs_quota_us", granted)
        self._write(self.root / "cpu" / group / "cpu.cfs_period_us", period)

    def belong_to(self, *lines: str) -> None:
        self._write(self.membership, "\n".join(lines) + "\n")

    def quota(self) -> float | None:
        return quota(self.root, self.membership)

    @staticmethod
    def _write(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_no_cgroups_at_all(tree: Tree) -> None:
    tree.root.rmdir()
    assert tree.quota() is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("400000 50000\n", 8.0),
        ("max 100000\n", None),
        ("", None),
        ("100000", None),
        ("100000 0\n", None),
        ("x y\n", None),
        ("0 100000\n", None),
    ],
)
def test_version_2_at_the_root_of_a_container(tree: Tree, content: str, expected: float | None) -> None:
    tree.v2("", content)
    assert tree.quota() == expected
    tree.belong_to("0::/")
    assert tree.quota() == expected


@pytest.mark.parametrize(
    ("granted", "period", "expected"),
    [
        ("150000\n", "100000\n", 1.5),
        ("-1\n", "100000\n", None),
        ("0\n", "100000\n", None),
        ("100000\n", "0\n", None),
        ("", "", None),
    ],
)
def test_version_1_at_the_root_of_a_container(tree: Tree, granted: str, period: str, expected: float | None) -> None:
    tree.v1("", granted, period)
    assert tree.quota() == expected
    tree.belong_to("4:memory:/", "3:cpu,cpuacct:/", "0::/")
    assert tree.quota() == expected


def test_version_1_without_its_period(tree: Tree) -> None:
    tree.v1("", "150000\n", "100000\n")
    (tree.root / "cpu" / "cpu.cfs_period_us").unlink()
    assert tree.quota() is None


@pytest.mark.parametrize("limited", ["system.slice/embed.service", "system.slice", ""])
def test_version_2_limit_at_any_level_above_the_process(tree: Tree, limited: str) -> None:
    for group in ("system.slice/embed.service", "system.slice"):
        tree.v2(group, "max 100000\n")
    tree.v2(limited, "200000 100000\n")
    tree.belong_to("0::/system.slice/embed.service")
    assert tree.quota() == 2.0


def test_the_smallest_limit_of_all_levels_counts(tree: Tree) -> None:
    tree.v2("a/b/c", "400000 100000\n")
    tree.v2("a/b", "150000 100000\n")
    tree.v2("a", "300000 100000\n")
    tree.belong_to("0::/a/b/c")
    assert tree.quota() == 1.5


def test_limits_of_other_groups_do_not_count(tree: Tree) -> None:
    tree.v2("a/b", "300000 100000\n")
    tree.v2("a/b/child", "100000 100000\n")
    tree.v2("a/other", "100000 100000\n")
    tree.belong_to("0::/a/b")
    assert tree.quota() == 3.0


@pytest.mark.parametrize("limited", ["system.slice/embed.service", "system.slice", ""])
def test_version_1_limit_at_any_level_above_the_process(tree: Tree, limited: str) -> None:
    tree.v1("system.slice/embed.service", "-1\n", "100000\n")
    tree.v1(limited, "250000\n", "100000\n")
    tree.belong_to("5:cpuset:/elsewhere", "3:cpu,cpuacct:/system.slice/embed.service", "1:name=systemd:/x")
    assert tree.quota() == 2.5


def test_the_group_of_another_controller_does_not_count(tree: Tree) -> None:
    tree.v1("elsewhere", "100000\n", "100000\n")
    tree.belong_to("5:cpuset:/elsewhere", "3:cpu,cpuacct:/")
    assert tree.quota() is None


def test_both_versions_at_once(tree: Tree) -> None:
    tree.v1("x", "300000\n", "100000\n")
    tree.v2("y", "200000 100000\n")
    tree.belong_to("3:cpu:/x", "0::/y")
    assert tree.quota() == 2.0


def test_a_container_that_shows_the_paths_of_the_host(tree: Tree) -> None:
    """Without a cgroup namespace the process's group is named as on the host, and its folder is the root here."""
    tree.v2("", "100000 100000\n")
    tree.belong_to("0::/docker/0123abcd")
    assert tree.quota() == 1.0


@pytest.mark.parametrize("line", ["0::/../../outside", "0::/..", "3:cpu:/../outside"])
def test_a_group_outside_of_the_namespace_is_not_looked_for(tree: Tree, line: str) -> None:
    for folder in (tree.root.parent, tree.root.parent.parent, tree.root.parent / "outside"):
        tree.v2(os.path.relpath(folder, tree.root), "100000 100000\n")
    tree.v2("outside", "100000 100000\n")
    tree.belong_to(line)
    assert tree.quota() is None


@pytest.mark.parametrize("lines", [[""], ["nonsense"], ["0:"], ["::"], [":::::"]])
def test_a_membership_that_makes_no_sense(tree: Tree, lines: list[str]) -> None:
    tree.v2("", "100000 100000\n")
    tree.belong_to(*lines)
    assert tree.quota() == 1.0


@pytest.mark.parametrize(
    ("processors", "limit", "expected"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.9, 2), (8, 0.5, 1), (2, 16.0, 2), (1, None, 1)],
)
def test_threads_are_the_smaller_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, processors: int, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: processors)
    monkeypatch.setattr(machine, "quota", lambda: limit)
    assert available_threads() == expected


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no processor affinity")
def test_affinity_is_what_the_scheduler_allows() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from embedrt.engine import machine; print(machine.affinity())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout == "1\n"
    assert affinity() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("count", "expected"), [(6, 6), (None, 1)])
def test_affinity_where_the_platform_has_none(
    monkeypatch: pytest.MonkeyPatch, count: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert affinity() == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "model name : AMD EPYC\ncpu family : 26\nmodel : 2\nflags : smep fma avx2 amx_tile\n\nmodel : 3\n",
            ("AMD EPYC, cpu family 26, model 2", "amx_tile avx2 fma"),
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd i8mm sve2 sme\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n\n",
            ("CPU implementer 0x41, CPU part 0xd4f", "asimd i8mm sme sve2"),
        ),
        ("", ("", "")),
        ("\n\nmodel name : late\n", ("late", "")),
        ("nothing that looks like it", ("", "")),
    ],
)
def test_the_kind_of_processor(tmp_path: Path, content: str, expected: tuple[str, str]) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    assert cpu_model(tmp_path / "cpuinfo") == expected


def test_the_kind_of_this_processor() -> None:
    kind, instructions = cpu_model()
    assert kind
    assert cpu_model() == (kind, instructions)

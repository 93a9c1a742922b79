"""The resources of this process: CPU model, cores by affinity and cgroup quota; and the fork guard."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from embedrt.errors import InferenceError

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
# The keys in /proc/cpuinfo that identify a CPU model, on x86 and on ARM. Virtual machines often hide the model name.
_MODEL_KEYS = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
# The instructions that decide which kernels an engine uses.
_INSTRUCTIONS = re.compile(r"fma|avx\w*|amx\w*|asimd\w*|sve\w*|sme(?!p)\w*|i8mm|bf16|neon")


def affinity() -> int:
    """The number of cores that the scheduler may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(root: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> float | None:
    """The number of cores that the cgroups of this process grant, or None without a limit.

    A container sees its limit (`docker --cpus`, Kubernetes) at the root of the tree; on a host it is at the process's
    own group or above (a systemd slice). All limits apply, so the smallest one counts.

    Args:
        root: The mount point of the cgroup file systems.
        membership: A file with the process's own groups, one per line: "0::/path" in cgroup v2, "3:cpu,cpuacct:/path"
            in v1.
    """
    limits = [limit for group in _groups(root, membership) if (limit := _limit(group)) is not None]
    return min(limits, default=None)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """The root group, the process's own group and those between, in both versions; some may not be visible."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", "0:cpu:/", *lines]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # outside this cgroup namespace
            continue
        tree = root / "cpu" if controllers else root
        yield from (tree / part for part in [group, *group.parents])


def _limit(group: Path) -> float | None:
    """Read `cpu.max` ("quota period" or "max period"), or the two files of cgroup v1 (a quota of -1 is no limit)."""
    try:
        if (group / "cpu.max").is_file():
            granted, period = (group / "cpu.max").read_text().split()
        else:
            granted, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        limit = None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return limit if limit is not None and limit > 0 else None


def available_threads() -> int:
    """The number of threads to use: the affinity or the quota rounded down, whichever is smaller, and at least 1."""
    limit = quota()
    return max(1, affinity() if limit is None else min(affinity(), int(limit)))


def is_x86() -> bool:
    """True on CPUs of x86-64."""
    return platform.machine().lower() in {"x86_64", "amd64"}


def cpu_model(cpuinfo: Path = _CPUINFO) -> tuple[str, str]:
    """The CPU model, and its instructions that affect kernels; unknown values are empty.

    Args:
        cpuinfo: The file where Linux describes the cores, in paragraphs of lines such as "model name : AMD EPYC".
    """
    facts: dict[str, str] = {}
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, colon, value = line.partition(":")
                if colon:
                    facts[name.strip()] = value.strip()
                elif facts:
                    break  # the other cores are alike
    except OSError:
        if sys.platform == "darwin":
            return _macos_brand(), ""
        return os.environ.get("PROCESSOR_IDENTIFIER", platform.processor()), ""
    instructions = facts.get("flags", facts.get("Features", "")).split()
    return (
        ", ".join(f"{name} {facts[name]}".removeprefix("model name ") for name in _MODEL_KEYS if name in facts),
        " ".join(sorted(filter(_INSTRUCTIONS.fullmatch, instructions))),
    )


def _macos_brand() -> str:
    """The CPU brand string of macOS."""
    name, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    ctypes.CDLL(None).sysctlbyname(b"machdep.cpu.brand_string", name, ctypes.byref(size), None, ctypes.c_size_t(0))
    return name.value.decode(errors="replace")


def require_process(loaded_in: int) -> None:
    """Check that the process did not fork since the model was loaded; a child lacks the threads of its parent.

    Raises:
        InferenceError: This process is not `loaded_in`.
    """
    if os.getpid() != loaded_in:
        raise InferenceError(
            "this model was loaded before the process forked, and neither the tokenizer nor ONNX Runtime survives a "
            "fork; load it in the child, or start processes with spawn"
        )

"""What this process may use of the machine: processors by affinity and by cgroup quota."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def affinity() -> int:
    """Processors that the scheduler may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(root: Path = _CGROUP) -> float | None:
    """Processors that the cgroup grants (`docker --cpus`, a Kubernetes limit), or None without a limit.

    Reads version 2 (`cpu.max`: "quota period", or "max period") and version 1 (`cpu.cfs_quota_us`, -1 for no limit).
    """
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        granted = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if granted <= 0 else granted / int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def available_threads() -> int:
    """Threads worth starting: the affinity, or the quota rounded down if it is smaller, and at least 1."""
    limit = quota()
    return max(1, affinity() if limit is None else min(affinity(), int(limit)))

"""The working tree that the benchmarks belong to."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str | None:
    """Revision of the working tree, or None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()

"""A short form of the run with many threads; `make endurance` has the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.endurance.threads import GROWTH_MB, Outcome


@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_threads(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "tests.endurance.threads", str(tiny_bundle), "--threads", "32", "--seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit; 0 wrong\n" in done.stdout


def test_growth_is_measured_from_the_middle_to_the_end() -> None:
    flat = Outcome(samples=[(i / 100, 50.0 if i < 30 else 300.0) for i in range(101)])
    assert (flat.growth_mb, flat.grows) == (0.0, False)
    rising = Outcome(samples=[(i / 100, 4 * GROWTH_MB * i / 100) for i in range(101)])
    assert rising.grows

"""Short forms of the kill loops and the soak; `make kills` and `make soak` run them at length."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from secrets import randbits

import pytest

from tests.endurance import kills, soak

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and kills by SIGKILL"),
]


@pytest.mark.slow
def test_a_few_kills_of_every_operation() -> None:
    assert kills.run(len(kills.OPERATIONS), randbits(32), list(kills.OPERATIONS)) == []


def test_a_careless_writer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: it opens its target in place."""
    careless = replace(
        kills.OPERATIONS["encode --output"],
        code="file = open(sys.argv[1], 'wb'); file.write(b'half'); open(sys.argv[1] + '2', 'wb')",
        arguments=lambda place: [str(place.folder / "v.npy")],
    )
    monkeypatch.setitem(kills.OPERATIONS, "encode --output", careless)
    given = kills.Place(tmp_path, {}, {}, "")
    found = kills.kill_once("encode --output", Random(0), (2, 1.0), given)
    assert found is not None
    assert "encode --output, killed at step" in found


@pytest.mark.slow
def test_a_short_soak() -> None:
    command = [sys.executable, "-m", "tests.endurance.soak", "--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ", 0 wrong\n" in done.stdout, done.stdout + done.stderr


def test_growth_is_measured_from_the_middle_to_the_end() -> None:
    flat = [(i / 100, {"memory MB": 50.0 if i < 30 else 300.0}) for i in range(101)]
    assert soak.growth(flat, "memory MB") == 0
    rising = [(i / 100, {"memory MB": 4 * soak.GROWTH["memory MB"] * i / 100}) for i in range(101)]
    assert soak.growth(rising, "memory MB") > soak.GROWTH["memory MB"]

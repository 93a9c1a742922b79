"""Short forms of the kill loops and the soak; `make kills` and `make soak` run them at length."""

import sys
from pathlib import Path

import pytest

from tests.endurance import kills, soak

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and kills by SIGKILL"),
]


@pytest.mark.slow
def test_a_few_kills_of_every_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "EMBEDRT_HOME"):
        monkeypatch.setenv(name, "")  # the tool sets them
    assert kills.run(len(kills.OPERATIONS), None, list(kills.OPERATIONS)) == []


def test_a_broken_writer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a writer that opens its target in place."""
    careless = (
        "import sys; file = open(sys.argv[1], 'wb'); file.write(b'half'); open(sys.argv[1] + '2', 'wb'); file.flush()"
    )
    operation = kills.OPERATIONS["encode --output"]
    broken = kills.replace(operation, code=careless, arguments=lambda place: [str(place.folder / "v.npy")])
    monkeypatch.setitem(kills.OPERATIONS, "encode --output", broken)
    found = kills.kill_once("encode --output", kills.random.Random(0), (2, 1.0), {}, {})
    assert found is not None
    assert "encode --output, killed at step" in found


def test_growth_is_measured_from_the_middle_to_the_end() -> None:
    flat = [(i / 100, {"memory MB": 50.0 if i < 30 else 300.0}) for i in range(101)]
    assert soak.growth(flat, "memory MB") == 0
    rising = [(i / 100, {"memory MB": 4 * soak.GROWTH["memory MB"] * i / 100}) for i in range(101)]
    assert soak.growth(rising, "memory MB") > soak.GROWTH["memory MB"]

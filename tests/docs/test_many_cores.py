"""The script that measures many cores, on few."""

import sys
from pathlib import Path

import pytest

from benchmarks import many_cores


def test_every_way_to_use_two_cores(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--texts", "40", "--rounds", "1", "--threads", "1,2", "--simulated", "4"]
    monkeypatch.setattr(sys, "argv", ["many_cores", str(tiny_bundle), *options, "--only", "threads,simulated"])
    many_cores.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[3:]] == [
        ["threads", "1"],
        ["threads", "2"],
        ["simulated", "1"],
        ["simulated", "2"],
        ["simulated", "4"],
    ]
    assert "100.0% of 1 x the first" in lines[3]
    for line in lines[5:]:
        assert 0 < float(line.partition("second")[2].split()[0].rstrip("%")) <= 100

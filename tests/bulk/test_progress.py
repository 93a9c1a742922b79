"""Progress: numbers of batches, windows and parts, the estimated end, and the bar."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from embedrt.bulk import progress
from embedrt.bulk.job import Job, find_job
from embedrt.bulk.manifest import Line, read_lines
from embedrt.bulk.transform import Facts
from tests.bulk import jobs


@pytest.fixture
def job(tiny_bundle: Path, tmp_path: Path) -> tuple[Job, list[Line]]:
    """A job without its parts, and the lines that they had."""
    jobs.write_source(tmp_path / "in")
    jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle)
    lines = [replace(line, seconds=0.0) for line in read_lines(tmp_path / "out" / "_job")]
    for path in (tmp_path / "out").glob("part-*"):
        path.unlink()
    return find_job(tmp_path / "out"), lines


def test_an_estimate_counts_every_row_once(job: tuple[Job, list[Line]]) -> None:
    estimate, lines = progress.Estimate(job[0]), job[1]
    assert (estimate.rows, estimate.facts, estimate.seconds_left()) == (jobs.ROWS, Facts(), None)
    estimate.batch(0, 2, 20)
    estimate.batch(0, 3, 10)
    assert (estimate.facts.rows, estimate.facts.tokens) == (5, 30)
    estimate.window(0, Facts(rows=6, tokens=31, duplicates=1))
    assert estimate.facts == Facts(rows=6, tokens=31, duplicates=1)
    estimate.batch(1, 1, 4)
    assert estimate.facts == Facts(rows=7, tokens=35, duplicates=1)
    estimate.made(lines[0])
    assert estimate.facts == lines[0].facts + Facts(rows=1, tokens=4)
    for line in lines[1:]:
        estimate.window(line.unit, line.facts)
        estimate.made(line)
    assert estimate.facts == sum((line.facts for line in lines), Facts())
    assert estimate.seconds_left() == 0.0


def test_the_end_is_estimated_by_the_bytes_of_the_source(
    job: tuple[Job, list[Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 100.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    estimate = progress.Estimate(job[0])
    seconds += 8
    for line in job[1][:3]:  # 21 of the 45 rows of the first of two files of nearly the same size
        estimate.made(line)
    share = 21 / 45 * job[0].plan.files[0].size / sum(file.size for file in job[0].plan.files)
    assert estimate.seconds_left() == pytest.approx(8 / share - 8, abs=0.1)
    tokens = sum(line.tokens for line in job[1][:3])
    assert estimate.text().startswith(f"3 rows/s, {tokens / 8:.0f} tokens/s, 9.5% duplicate, 0:")
    assert estimate.text().endswith(" left")


class Seen:
    """A display that keeps everything."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, Facts]] = []
        self._lock = Lock()

    def batch(self, unit: int, texts: int, tokens: int) -> None:
        with self._lock:
            self.events.append(("batch", unit, Facts(rows=texts, tokens=tokens)))

    def window(self, unit: int, facts: Facts) -> None:
        with self._lock:
            self.events.append(("window", unit, facts))

    def made(self, line: Line) -> None:
        with self._lock:
            self.events.append(("made", line.unit, line.facts))


@pytest.mark.parametrize("long_texts", ["truncate", "chunks"])
def test_a_unit_moves_with_every_batch(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_texts: Any
) -> None:
    seen = Seen()

    @contextmanager
    def showing(*_: Any, **__: Any) -> Iterator[Seen]:
        yield seen

    monkeypatch.setattr("embedrt.bulk.driver.showing", showing)
    jobs.write_source(tmp_path / "in")
    report = jobs.run_again(
        tmp_path / "in", tmp_path / "out", tiny_bundle, part_rows=30, max_tokens=48, long_texts=long_texts
    )
    for unit in range(report.units):
        of_unit = [(kind, facts) for kind, one, facts in seen.events if one == unit]
        *batches, (window, facts), (made, _) = of_unit
        assert {kind for kind, _ in batches} == {"batch"}
        assert (window, made) == ("window", "made")
        assert len(batches) > 2 or long_texts == "chunks"
        assert sum(one.rows for _, one in batches) == facts.rows - facts.duplicates
        assert sum(one.tokens for _, one in batches) == facts.tokens


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_the_bar(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle, progress=True)
        return terminal.getvalue().split("\r")[-1]

    jobs.write_source(tmp_path / "in")
    last = shown()
    assert last.startswith("100%|")
    assert f" {jobs.ROWS}/{jobs.ROWS} rows, " in last
    assert " rows/s, " in last
    assert "% duplicate, 0:00 left" in last
    (tmp_path / "out" / "part-00000003.parquet").unlink()
    assert " 7/7 rows, " in shown()

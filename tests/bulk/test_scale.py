"""Jobs of millions of rows and units, without a model."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedrt.bulk.plan import SourceFile, Unit, make_plan, read_plan, write_plan


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform == "win32", reason="reads the peak memory of Unix")
def test_a_million_rows_in_flat_memory() -> None:
    """`python -m tests.bulk.scale` has ten."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bulk.scale", "--rows", "1000000"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    some, everything, again = map(json.loads, done.stdout.splitlines())
    assert (everything["units"], everything["rows"]) == (100, 1_000_000)
    assert some["made"] + everything["made"] == 1_000_000
    assert everything["peak_mb"] - some["peak_mb"] < 50
    assert (again["made"], again["reads"]) == (0, 0)
    assert again["peak_mb"] - some["peak_mb"] < 50


def same(one: SourceFile, other: SourceFile) -> bool:
    """Files whose rows may be in one part."""
    return one.format == other.format


def test_a_plan_of_many_units_is_small(tmp_path: Path) -> None:
    files = [SourceFile(f"/in/{i}", str(i), "parquet", 1000, "1") for i in range(10)]
    tracemalloc.start()
    try:
        plan = make_plan(files, 10, lambda _, rows: ((rows, 0) for _ in range(20_000)), same)
        write_plan(plan, tmp_path / "files", tmp_path / "units.npy")
        read = read_plan(tmp_path / "files", tmp_path / "units.npy")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25e6
    assert (len(read), read.rows) == (200_000, 2_000_000)
    assert read.unit(123_456) == Unit(123_456, 6, 34_560, 34_570, 0, 1_234_560)
    assert read.files == plan.files
    rows, shares = read.shares(np.arange(len(read)))
    assert (int(rows.sum()), round(float(shares.sum()))) == (2_000_000, 10_000)


def test_small_files_are_gathered() -> None:
    rows = [3, 3, 0, 4, 1, 0, 25, 4, 6, 2, 0]
    files = [SourceFile(f"/in/{i}", str(i), "csv" if i == 9 else "jsonl", 1000, "1") for i in range(len(rows))]

    def pieces(file: SourceFile, most: int) -> Iterator[tuple[int, int]]:
        count = rows[int(file.name)]
        return ((min(most, count - start), 7 + start) for start in range(0, count, most))

    plan = make_plan(files, 10, pieces, same)
    assert [plan.unit(number) for number in range(len(plan))] == [
        Unit(0, 0, 0, 10, 7, 0, files=4),
        Unit(1, 4, 0, 1, 7, 10),
        Unit(2, 6, 0, 10, 7, 11),
        Unit(3, 6, 10, 20, 17, 21),
        Unit(4, 6, 20, 25, 27, 31),
        Unit(5, 7, 0, 10, 7, 36, files=2),
        Unit(6, 9, 0, 2, 7, 46),
    ]
    assert [file.name for file in plan.files_of(plan.unit(5))] == ["7", "8"]
    assert [(file.rows, file.offset) for file in plan.files_of(plan.unit(0))] == [(3, 7), (3, 7), (0, 0), (4, 7)]
    counts, shares = plan.shares(np.arange(len(plan)))
    assert counts.tolist() == [10, 1, 10, 10, 5, 10, 2]
    assert shares.tolist() == [4000, 1000, 400, 400, 200, 2000, 1000]


def test_a_plan_without_rows_has_one_unit() -> None:
    files = [SourceFile(f"/in/{i}", str(i), "parquet", 1000, "1") for i in range(3)]
    plan = make_plan(files, 10, lambda _, rows: iter([]), same)
    assert [plan.unit(number) for number in range(len(plan))] == [Unit(0, 0, 0, 0, 0, 0)]
    assert plan.rows == 0


def test_empty_pieces_are_no_units() -> None:
    files = [SourceFile(f"/in/{i}", str(i), "parquet", 1000, "1") for i in range(2)]
    plan = make_plan(
        files, 5, lambda file, rows: iter([(0, 5), (4, 7)] if file.name == "0" else [(0, 0), (2, 9)]), same
    )
    assert [plan.unit(number) for number in range(len(plan))] == [Unit(0, 0, 0, 4, 7, 0), Unit(1, 1, 0, 2, 9, 4)]

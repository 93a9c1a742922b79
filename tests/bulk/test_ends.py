"""Ends of a bulk job: kills, signals, a full disk, and an error in the middle."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from secrets import randbits

import pytest

from embedrt.bulk import check
from tests.bulk import jobs, kills

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and limits of Linux"),
]


@pytest.mark.slow
def test_a_few_kills() -> None:
    """`make kills-bulk` has more."""
    assert kills.run(4, randbits(32)) == []


def start(place: Path, bundle: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "embedrt", "bulk", str(place / "in"), str(place / "out"), "--model", str(bundle)]
    command += ["--text", "text", "--part-rows", "10", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_the_unit(
    tmp_path: Path, tiny_bundle: Path, number: signal.Signals, status: int
) -> None:
    texts = jobs.write_source(tmp_path / "in", 2000)
    with start(tmp_path, tiny_bundle, "--json-log") as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        assert (first["unit"], first["of"]) == (0, 286)
        process.send_signal(number)
        out, error = process.communicate(timeout=240)
    assert process.returncode == status, error
    assert f"embedrt: {number.name}: finishing the unit; the next signal ends at once\n" in error
    assert error.endswith(f"embedrt: ended by {number.name}; run the same command again to resume\n")
    logged = [json.loads(line)["unit"] for line in error.splitlines() if line.startswith("{")]
    assert logged == list(range(1, 1 + len(logged)))  # in order, and whole
    found = check(tmp_path / "out")
    assert found.missing == tuple(range(1 + len(logged), 286))
    assert found.missing
    assert not found.damaged
    assert (
        out
        == f"{tmp_path / 'out'}: {1 + len(logged)} of 286 parts, {found.done.rows} rows, " + out.partition(" rows, ")[2]
    )
    with start(tmp_path, tiny_bundle) as process:
        _, error = process.communicate(timeout=240)
    assert (process.returncode, error) == (0, "")
    jobs.require_whole(tmp_path / "out", texts, jobs.vectors_of(tiny_bundle, texts))


def test_a_full_disk(tmp_path: Path, tiny_bundle: Path) -> None:
    """Parts before it are whole, nothing else is left, and the next run goes on."""
    texts = jobs.write_source(tmp_path / "in")
    with start(tmp_path, tiny_bundle) as process:
        process.communicate(timeout=240)
    parts = sorted((tmp_path / "out").glob("part-*"))
    most = max(part.stat().st_size for part in parts[:2])
    (tmp_path / "out").rename(tmp_path / "whole")
    jobs.write_source(tmp_path / "in")
    command = [sys.executable, "-m", "embedrt", "bulk", str(tmp_path / "in"), str(tmp_path / "out")]
    command += ["--model", str(tiny_bundle), "--text", "text", "--part-rows", "10"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most // 2, most // 2)),
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == []
    with start(tmp_path, tiny_bundle) as process:
        _, error = process.communicate(timeout=240)
    assert (process.returncode, error) == (0, "")
    jobs.require_whole(tmp_path / "out", texts, jobs.vectors_of(tiny_bundle, texts))


def test_a_row_that_ends_the_job(tmp_path: Path, tiny_bundle: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    texts = [None if row == 33 else jobs.text_of(row) for row in range(50)]
    table = pa.table({"id": range(50), "text": texts})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    with start(tmp_path, tiny_bundle) as process:
        _, error = process.communicate(timeout=240)
    assert process.returncode == 1
    assert error.startswith("embedrt: a.parquet, row 33, column 'text': expected str, got null")
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == [
        f"part-{number:08d}.parquet" for number in range(3)
    ]
    for policy, rows in (("null", 50), ("skip", 49)):
        with start(tmp_path, tiny_bundle, "--on-error", policy, "--restart") as process:
            out, error = process.communicate(timeout=240)
        assert (process.returncode, error) == (0, "")
        assert "1 failed" in out
        found = check(tmp_path / "out")
        assert (found.done.written, found.errors, found.is_whole) == (rows, 1, True)
        errors = (tmp_path / "out" / "_job" / "errors.jsonl").read_text().splitlines()
        assert [json.loads(line)["row"] for line in errors] == [33]


def test_the_words_of_the_command(tmp_path: Path, tiny_bundle: Path) -> None:
    jobs.write_source(tmp_path / "in", 20)
    for options, message in (
        (["--shard", "3"], "expected I/N, such as 3/8, got '3'"),
        (["--shard", "0/8"], "shard: expected i/n with i from 1 to n, got 0/8"),
        (["--keep", "id", "--keep-none"], "--keep: expected columns or --keep-none, got both"),
    ):
        with start(tmp_path, tiny_bundle, *options) as process:
            _, error = process.communicate(timeout=240)
        assert process.returncode in {1, 2}
        assert message in error
    assert not (tmp_path / "out").exists()
    environment = {**os.environ, "EMBEDRT_MODEL": str(tiny_bundle)}
    program = [sys.executable, "-m", "embedrt", "bulk"]
    source, target, merged = (str(tmp_path / name) for name in ("in", "out", "all.parquet"))
    for words, status, output in (
        ([source, target, "--text", "text", "--part-rows", "10"], 0, f"{target}: 2 of 2 parts, 20 rows, "),
        (["check", target], 0, f"{target}: 2 of 2 parts are whole: 20 of 20 rows, "),
        (["merge", target, merged], 0, f"{merged}: written\n"),
    ):
        done = subprocess.run(
            [*program, *words], env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert (done.returncode, done.stderr) == (status, "")
        assert done.stdout.startswith(output)
    (tmp_path / "out" / "part-00000001.parquet").unlink()
    done = subprocess.run([*program, "check", target], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "missing: 1; run the job again" in done.stdout


LEAVE = """
import os, sys
from pathlib import Path
from embedrt.bundle.staging import staging
entered = [staging(Path(name)) for name in sys.argv[1:]]
for one in entered:
    one.__enter__()
os._exit(0)
"""


def test_a_run_with_nothing_to_write_clears_what_killed_runs_left(tmp_path: Path, tiny_bundle: Path) -> None:
    texts = jobs.write_source(tmp_path / "in", 20)
    jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle)
    places = [tmp_path / "out", tmp_path / "out" / ".unfinished", tmp_path / "out" / "_job"]
    subprocess.run([sys.executable, "-c", LEAVE, *(str(place / "x") for place in places)], check=True, timeout=240)
    assert [len(list(place.glob(".unfinished-*"))) for place in places] == [1, 1, 1]
    assert jobs.run_again(tmp_path / "in", tmp_path / "out", tiny_bundle).made.rows == 0
    assert [len(list(place.glob(".unfinished-*"))) for place in places] == [0, 0, 0]
    jobs.require_whole(tmp_path / "out", texts, jobs.vectors_of(tiny_bundle, texts))

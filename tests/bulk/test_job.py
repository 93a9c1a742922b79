"""A job that is run again: after a kill, with other options or another source, in shards, and by two at once."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from embedrt.bulk import check, merge, run, task
from embedrt.bulk.job import find_job
from embedrt.bundle.locks import Lock
from embedrt.errors import BulkError
from tests.bulk import jobs

Expected = tuple[list[str], NDArray[np.float32]]
UNITS = 12  # of two files with groups of 7 rows


@pytest.fixture(scope="module")
def done(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """A job that is whole, to be copied, with its source; and what it must hold."""
    place = tmp_path_factory.mktemp("job")
    texts = jobs.write_source(place / "in")
    jobs.run_again(place / "in", place / "out", tiny_bundle)
    return place, (texts, jobs.vectors_of(tiny_bundle, texts))


@pytest.fixture
def place(done: tuple[Path, Expected], tmp_path: Path) -> Path:
    """A copy of it; `copytree` keeps the times of files."""
    shutil.copytree(done[0], tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(scope="module")
def expected(done: tuple[Path, Expected]) -> Expected:
    """The texts and their vectors."""
    return done[1]


def lines(target: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (target / "_job" / "manifest.jsonl").read_text().splitlines()]


class TestResume:
    def test_every_row_is_there_once(self, place: Path, expected: Expected) -> None:
        jobs.require_whole(place / "out", *expected)

    def test_a_run_after_the_last_computes_nothing(self, place: Path, tiny_bundle: Path) -> None:
        report = jobs.run_again(place / "in", place / "out", tiny_bundle)
        assert (report.parts, report.units, report.is_whole) == (UNITS, UNITS, True)
        assert report.made.rows == 0
        assert report.done.rows == jobs.ROWS
        assert 0 < report.done.duplicates < jobs.ROWS // 9  # some pairs are in two parts

    def test_a_missing_part_is_made(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        (place / "out" / "part-00000003.parquet").unlink()
        assert check(place / "out").missing == (3,)
        assert jobs.run_again(place / "in", place / "out", tiny_bundle).made.rows == 7
        jobs.require_whole(place / "out", *expected)

    @pytest.mark.parametrize("with_time", [True, False])
    def test_a_damaged_part_is_made_again(
        self, place: Path, tiny_bundle: Path, expected: Expected, with_time: bool
    ) -> None:
        """A part that is shorter, or was written to later; one with its size and time only `check` finds."""
        path = place / "out" / "part-00000002.parquet"
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw if with_time else raw[:-100])
        assert check(place / "out").damaged == (path.name,)
        assert not check(place / "out").is_whole
        jobs.run_again(place / "in", place / "out", tiny_bundle)
        jobs.require_whole(place / "out", *expected)

    def test_check_hashes_a_part_with_the_size_and_time_of_its_line(self, place: Path) -> None:
        path = place / "out" / "part-00000002.parquet"
        before = path.stat()
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        found = check(place / "out")
        assert found.damaged == (path.name,)
        assert "damaged: part-00000002.parquet; delete them" in found.summary

    def test_a_part_without_a_line_gets_it(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        """As after a kill between the rename and the line."""
        path = place / "out" / "_job" / "manifest.jsonl"
        before = lines(place / "out")
        text = path.read_text().splitlines(keepends=True)
        path.write_text("".join(text[:4] + text[5:]))
        assert check(place / "out").is_whole
        stamp = (place / "out" / "part-00000004.parquet").stat().st_mtime_ns
        assert jobs.run_again(place / "in", place / "out", tiny_bundle).parts == UNITS
        assert (place / "out" / "part-00000004.parquet").stat().st_mtime_ns == stamp
        jobs.require_whole(place / "out", *expected)
        after = lines(place / "out")
        assert {**after[-1], "seconds": 0} == {**before[4], "seconds": 0}

    def test_an_unfinished_line_is_no_line(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        path = place / "out" / "_job" / "manifest.jsonl"
        path.write_bytes(path.read_bytes()[:-40])
        jobs.run_again(place / "in", place / "out", tiny_bundle)
        jobs.require_whole(place / "out", *expected)
        assert path.read_bytes().count(b"\n") == UNITS + 1  # with the torn one
        assert find_job(place / "out").parts == UNITS

    @pytest.mark.parametrize("line", ["[]", "{}", "null", '{"unit": 3}', "\x00" * 80, '"' * 9])
    def test_a_line_of_something_else_is_no_line(self, place: Path, line: str) -> None:
        path = place / "out" / "_job" / "manifest.jsonl"
        path.write_text(f"{line}\n{path.read_text()}")
        assert find_job(place / "out").parts == UNITS

    @pytest.mark.parametrize("change", [{"unit": -1}, {"unit": 99}, {"part": "../x"}, {"rows": "7"}, {"seconds": None}])
    def test_a_line_with_another_value_is_no_line(self, place: Path, change: dict[str, Any]) -> None:
        path = place / "out" / "_job" / "manifest.jsonl"
        first, *rest = lines(place / "out")
        path.write_text("\n".join(json.dumps(line) for line in [{**first, **change}, *rest]) + "\n")
        assert find_job(place / "out").parts == UNITS - 1

    def test_a_part_of_another_job_is_not_taken(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        jobs.run_again(place / "in", place / "other", tiny_bundle, normalize=True)
        shutil.copy(place / "other" / "part-00000001.parquet", place / "out" / "part-00000001.parquet")
        (place / "out" / "_job" / "manifest.jsonl").unlink()
        assert check(place / "out").damaged == ("part-00000001.parquet",)
        assert jobs.run_again(place / "in", place / "out", tiny_bundle).made.rows == jobs.ROWS
        jobs.require_whole(place / "out", *expected)

    def test_a_moved_source_and_target(self, place: Path, tiny_bundle: Path, tmp_path: Path) -> None:
        place.rename(tmp_path / "elsewhere")
        place = tmp_path / "elsewhere"
        (place / "out" / "part-00000003.parquet").unlink()
        assert jobs.run_again(place / "in", place / "out", tiny_bundle).made.rows == 7


class TestRefusal:
    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"normalize": True}, "normalize: was false, got true"),
            ({"vector_type": "float16"}, 'vector_type: was "float32", got "float16"'),
            ({"dim": 8}, "dim: was null, got 8"),
            ({"part_rows": 11}, "part_rows: was 10, got 11"),
            ({"max_seq_length": 9}, "max_seq_length: was null, got 9"),
            ({"prompt": "x: "}, 'prompt: was null, got "x: "'),
            ({"keep": ["id"]}, 'keep: was null, got ["id"]'),
        ],
    )
    def test_another_option(self, place: Path, tiny_bundle: Path, options: dict[str, Any], difference: str) -> None:
        with pytest.raises(BulkError) as error:
            jobs.run_again(place / "in", place / "out", tiny_bundle, **options)
        message = str(error.value)
        assert message.startswith(f"{place / 'out'}: the job there has another source or other options: ")
        assert message.endswith(f"{difference}; choose another folder, or run with --restart to start over")
        assert ("fingerprint" in message) == ("max_seq_length" in options)

    def test_another_model(self, place: Path, tmp_path: Path) -> None:
        from embedrt import export
        from tests.kit.models import make_model

        other = export(make_model(tmp_path / "other", seed=5), tmp_path / "other-bundle")
        with pytest.raises(BulkError, match=r'fingerprint: was "[0-9a-f]{64}", got "[0-9a-f]{64}"'):
            jobs.run_again(place / "in", place / "out", other)

    def test_another_source(self, place: Path, tiny_bundle: Path) -> None:
        shutil.copy(place / "in" / "a.parquet", place / "in" / "c.parquet")
        (place / "in" / "b.parquet").write_bytes((place / "in" / "a.parquet").read_bytes())
        with pytest.raises(BulkError) as error:
            jobs.run_again(place / "in", place / "out", tiny_bundle)
        assert "b.parquet: was parquet of " in str(error.value)
        assert "c.parquet: is new" in str(error.value)
        (place / "in" / "c.parquet").unlink()
        (place / "in" / "b.parquet").unlink()
        with pytest.raises(BulkError, match=r"b.parquet: was there, is gone"):
            jobs.run_again(place / "in", place / "out", tiny_bundle)

    def test_what_does_not_change_the_result(self, place: Path, tiny_bundle: Path) -> None:
        report = jobs.run_again(
            place / "in", place / "out", tiny_bundle, threads=1, max_tokens=64, dedupe="none", json_log=True
        )
        assert report.made.rows == 0

    def test_a_restart(self, place: Path, tiny_bundle: Path) -> None:
        texts = jobs.write_source(place / "in", 40, "new ")
        report = jobs.run_again(place / "in", place / "out", tiny_bundle, restart=True)
        assert report.made.rows == report.done.rows == 40
        jobs.require_whole(place / "out", texts, jobs.vectors_of(tiny_bundle, texts))

    def test_a_restart_without_a_change_resumes(self, place: Path, tiny_bundle: Path) -> None:
        assert jobs.run_again(place / "in", place / "out", tiny_bundle, restart=True).made.rows == 0

    def test_parts_without_a_job(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        shutil.rmtree(place / "out" / "_job")
        with pytest.raises(BulkError, match=r"expected no parts without a job, got part-00000000.parquet; choose"):
            jobs.run_again(place / "in", place / "out", tiny_bundle)
        jobs.run_again(place / "in", place / "out", tiny_bundle, restart=True)
        jobs.require_whole(place / "out", *expected)

    @pytest.mark.parametrize("name", ["job.json", "files.jsonl", "units.npy"])
    @pytest.mark.parametrize("content", [b"", b"{}", b"[1]\n", b'{"format_version": 2}'])
    def test_a_damaged_job(self, place: Path, tiny_bundle: Path, name: str, content: bytes) -> None:
        (place / "out" / "_job" / name).write_bytes(content)
        with pytest.raises(BulkError, match=r"_job|not those of the plan"):
            jobs.run_again(place / "in", place / "out", tiny_bundle)

    def test_a_folder_without_a_job(self, tmp_path: Path) -> None:
        for look in (check, find_job, lambda folder: merge(folder, tmp_path / "x.parquet")):
            with pytest.raises(BulkError, match=r"expected the folder of a bulk job, found no _job/job.json in it"):
                look(tmp_path)


class TestShards:
    def test_shards_and_one_of_them_twice(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        for shard in ((1, 3), (3, 3), (3, 3)):
            report = jobs.run_again(place / "in", place / "new", tiny_bundle, shard=shard)
            assert report.is_whole
        assert check(place / "new").missing == (1, 4, 7, 10)
        with pytest.raises(BulkError, match="4 of 12 parts are missing; run the job again"):
            merge(place / "new", place / "merged.parquet")
        jobs.run_again(place / "in", place / "new", tiny_bundle, shard=(2, 3))
        jobs.require_whole(place / "new", *expected)

    def test_other_shards_after_the_first(self, place: Path, tiny_bundle: Path, expected: Expected) -> None:
        jobs.run_again(place / "in", place / "new", tiny_bundle, shard=(2, 3))
        report = jobs.run_again(place / "in", place / "new", tiny_bundle)
        assert report.made.rows < jobs.ROWS
        jobs.require_whole(place / "new", *expected)

    def test_more_shards_than_units(self, place: Path, tiny_bundle: Path) -> None:
        report = jobs.run_again(place / "in", place / "new", tiny_bundle, shard=(15, 20))
        assert (report.parts, report.units) == (0, 0)

    @pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1, 0)])
    def test_a_shard_that_is_none(self, place: Path, tiny_bundle: Path, shard: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="shard: expected i/n with i from 1 to n"):
            jobs.run_again(place / "in", place / "new", tiny_bundle, shard=shard)


class TestTwoRuns:
    @pytest.fixture
    def paused(self, place: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """A run of shard 1 of 2 that waits before its first part is put in place."""
        arrived, go = threading.Event(), threading.Event()
        commit = task.Making.commit

        def wait(making: task.Making) -> Any:
            if threading.current_thread().name == "embedrt-bulk-write" and not go.is_set():
                arrived.set()
                go.wait()
            return commit(making)

        monkeypatch.setattr(task.Making, "commit", wait)
        run_ = threading.Thread(
            target=jobs.run_again, args=(place / "in", place / "new", tiny_bundle), kwargs={"shard": (1, 2)}
        )
        run_.start()
        arrived.wait()
        yield go
        go.set()
        run_.join()

    def test_the_same_shard_is_refused(self, place: Path, tiny_bundle: Path, paused: threading.Event) -> None:
        del paused
        with pytest.raises(BulkError) as error:
            jobs.run_again(place / "in", place / "new", tiny_bundle, shard=(1, 2))
        assert f"another run uses the folder (process {os.getpid()} on " in str(error.value)
        assert "; wait until it ends, or give each run a --shard" in str(error.value)

    def test_all_units_are_refused(self, place: Path, tiny_bundle: Path, paused: threading.Event) -> None:
        del paused
        with pytest.raises(BulkError, match="another run uses the folder"):
            jobs.run_again(place / "in", place / "new", tiny_bundle)

    def test_another_shard_runs(self, place: Path, tiny_bundle: Path, paused: threading.Event) -> None:
        paused.set()
        assert jobs.run_again(place / "in", place / "new", tiny_bundle, shard=(2, 2)).is_whole


def test_two_runs_at_once_without_locks(
    place: Path, tiny_bundle: Path, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system that has none."""
    monkeypatch.setattr("embedrt.bulk.job.try_lock", lambda *_, **__: Lock.UNSUPPORTED)
    barrier = threading.Barrier(3)
    reports = []

    def act() -> None:
        barrier.wait()
        reports.append(jobs.run_again(place / "in", place / "new", tiny_bundle))

    runs = [threading.Thread(target=act) for _ in range(3)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert [report.is_whole for report in reports] == [True] * 3
    monkeypatch.undo()
    jobs.require_whole(place / "new", *expected)
    assert jobs.run_again(place / "in", place / "new", tiny_bundle).made.rows == 0


def test_a_source_without_rows(place: Path, tiny_bundle: Path) -> None:
    """The result has its columns all the same."""
    for path in (place / "in").iterdir():
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    report = jobs.run_again(place / "in", place / "new", tiny_bundle)
    assert (report.parts, report.units, report.done.rows) == (1, 1, 0)
    assert check(place / "new").is_whole
    assert pq.read_table(merge(place / "new", place / "merged.parquet")).schema.names == ["id", "text", "embedding"]
    assert jobs.run_again(place / "in", place / "new", tiny_bundle).made.rows == 0


def test_a_source_that_is_replaced_meanwhile(place: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part has rows of the new file, or of both."""
    old = [jobs.text_of(row) for row in range(jobs.ROWS)]
    commit, count = task.Making.commit, 0

    def replace(making: task.Making) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            jobs.write_source(place / "in", version="new ")
        return commit(making)

    monkeypatch.setattr(task.Making, "commit", replace)
    with pytest.raises(BulkError, match=r"a.parquet: changed while the job ran, from \d+ bytes at "):
        jobs.run_again(place / "in", place / "new", tiny_bundle)
    monkeypatch.undo()
    parts = sorted((place / "new").glob("part-*"))
    assert len(parts) == 2
    for part in parts:
        table = pq.read_table(part)
        assert table["text"].to_pylist() == [old[row] for row in table["id"].to_pylist()]
    with pytest.raises(BulkError, match=r"a.parquet: was parquet of "):
        jobs.run_again(place / "in", place / "new", tiny_bundle)
    jobs.run_again(place / "in", place / "new", tiny_bundle, restart=True)
    texts = [jobs.text_of(row, "new ") for row in range(jobs.ROWS)]
    jobs.require_whole(place / "new", texts, jobs.vectors_of(tiny_bundle, texts))


def test_merge(place: Path, expected: Expected) -> None:
    path = merge(place / "out", place / "merged.parquet")
    table = pq.read_table(path)
    assert table["text"].to_pylist() == expected[0]
    assert table.schema.equals(pq.read_schema(place / "out" / "part-00000000.parquet"), check_metadata=False)
    assert b"embedrt" in table.schema.metadata
    (place / "out" / "part-00000003.parquet").unlink()
    with pytest.raises(BulkError, match="1 of 12 parts are missing"):
        merge(place / "out", place / "other.parquet")
    assert not (place / "other.parquet").exists()


@pytest.mark.parametrize("merged", ["x.npy", "x.parquet", "x.arrow"])
def test_rows_without_a_vector(place: Path, tiny_bundle: Path, merged: str) -> None:
    """Parts and files that are merged from them are for any reader."""
    pq.write_table(pa.table({"text": ["a", None, "b", None]}), place / "a.parquet")
    jobs.run_again(place / "a.parquet", place / "new", tiny_bundle, part_rows=2, on_error="null")
    assert check(place / "new").is_whole
    for part in (place / "new").glob("part-*"):
        assert pq.read_table(part).schema.field("embedding").type == pa.list_(pa.float32())
    path = merge(place / "new", place / merged)
    if merged == "x.npy":
        assert np.isnan(np.load(path)).all(axis=1).tolist() == [False, True, False, True]
    else:
        reader = {"x.parquet": pq.read_table, "x.arrow": lambda path: pa.ipc.open_file(path).read_all()}[merged]
        assert [row is None for row in reader(path)["embedding"].to_pylist()] == [False, True, False, True]


def test_options_that_do_not_fit() -> None:
    for options, message in (
        ({"part_rows": 0}, "part_rows: expected a positive integer"),
        ({"vector_type": "float64"}, "vector_type: expected one of"),
        ({"prompt": "a", "prompt_name": "b"}, "prompt: expected a prompt or the name of one, got both"),
        ({"engine": "ray", "cache": "x"}, "engine: 'ray' spreads the units itself"),
    ):
        with pytest.raises(ValueError, match=message):
            run("in", "out", model="none", **options)


def test_places_that_do_not_fit(place: Path, tiny_bundle: Path) -> None:
    """A job would read its own parts at the next run."""
    with pytest.raises(ValueError, match="target: expected a folder outside of the source"):
        jobs.run_again(place / "in", place / "in" / "out", tiny_bundle)
    with pytest.raises(ValueError, match=r"target: expected a folder that has no source file, got .*a\.parquet"):
        jobs.run_again(place / "in" / "a.parquet", place / "in", tiny_bundle)
    with pytest.raises(ValueError, match="target: expected a folder, got the URL 's3:/bucket/out'"):
        run(place / "in", "s3://bucket/out", model=tiny_bundle)
    assert sorted(path.name for path in (place / "in").iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("dedupe", ["none", "window", "all"])
def test_equal_texts(place: Path, tiny_bundle: Path, expected: Expected, dedupe: str) -> None:
    report = jobs.run_again(place / "in", place / "new", tiny_bundle, dedupe=dedupe)
    pairs = jobs.ROWS // 9
    assert report.done.duplicates == {"none": 0, "window": report.done.duplicates, "all": pairs}[dedupe]
    if dedupe == "window":
        assert 0 < report.done.duplicates < pairs
    jobs.require_whole(place / "new", *expected)


def test_a_cache_serves_other_jobs(place: Path, tiny_bundle: Path, expected: Expected) -> None:
    cache = place / "cache"
    assert jobs.run_again(place / "in", place / "first", tiny_bundle, cache=cache).done.tokens > 0
    report = jobs.run_again(place / "in", place / "second", tiny_bundle, cache=cache, part_rows=30)
    assert (report.done.tokens, report.done.duplicates) == (0, jobs.ROWS)
    jobs.require_whole(place / "second", *expected)
    other = jobs.run_again(place / "in", place / "third", tiny_bundle, cache=cache, normalize=True)
    assert other.done.tokens > 0


def test_a_cache_that_is_damaged(place: Path, tiny_bundle: Path) -> None:
    (place / "cache").mkdir()
    (place / "cache" / "results.sqlite").write_bytes(b"no table" * 1000)
    with pytest.raises(BulkError, match=r"results\.sqlite: the table of results failed: file is not a database; make"):
        jobs.run_again(place / "in", place / "new", tiny_bundle, cache=place / "cache")


@pytest.mark.parametrize("part_format", ["arrow", "jsonl", "npy"])
def test_other_formats_of_parts(place: Path, tiny_bundle: Path, part_format: str) -> None:
    """Files beside a part belong to it."""
    target = place / "new"
    jobs.run_again(place / "in", target, tiny_bundle, part_format=part_format)
    assert check(target).is_whole
    before = lines(target)
    part, *beside = sorted(target.glob("part-00000003.*"))
    for path in [part, *beside]:
        path.write_bytes(path.read_bytes() + b"x")
        assert check(target).damaged == (part.name,)
        assert jobs.run_again(place / "in", target, tiny_bundle, part_format=part_format).made.rows == 7
        assert check(target).is_whole
    (target / "_job" / "manifest.jsonl").unlink()
    assert jobs.run_again(place / "in", target, tiny_bundle, part_format=part_format).parts == UNITS
    after = [{**line, "seconds": 0.0} for line in lines(target)]
    assert [line["sha256"] for line in after] == [line["sha256"] for line in before]
    assert [line["tokens"] for line in after] == [line["tokens"] for line in before]
    merged = merge(target, place / f"merged.{part_format}")
    assert merged.stat().st_size > part.stat().st_size

"""Bulk jobs on clusters: the parts are those of the same job on one machine, whatever dies on the way."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedrt.bulk
from embedrt import Embedder
from embedrt.bulk.engines import Assigned, results
from embedrt.bulk.engines.units import UnitWork
from embedrt.bulk.job import find_job
from embedrt.bulk.manifest import Line
from embedrt.bulk.task import Task
from embedrt.errors import BulkError
from tests.kit.models import WORDS

ROWS, PART = 500, 40
ATOL = 1e-6


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of texts with ids; every tenth text is there twice."""
    random = np.random.default_rng(0)
    words = WORDS.replace("##", "").split()
    folder = tmp_path_factory.mktemp("source")
    texts = [" ".join(random.choice(words, random.integers(0, 40))) for _ in range(ROWS)]
    texts[::10] = [texts[1]] * len(texts[::10])
    for number, rows in enumerate((range(300), range(300, ROWS))):
        table = pa.table({"id": [f"row-{i}" for i in rows], "body": [texts[i] for i in rows]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=64)
    return folder


@pytest.fixture
def run(source: Path, tiny_bundle: Path, tmp_path: Path) -> Callable[..., embedrt.bulk.Report]:
    """Run the job into a folder."""

    def run_job(target: str, **options: Any) -> embedrt.bulk.Report:
        options = {"text": "body", "id": "id", "part_rows": PART, "progress": False, **options}
        return embedrt.bulk.run(source, tmp_path / target, model=tiny_bundle, **options)

    return run_job


Run = Callable[..., embedrt.bulk.Report]


def rows_of(target: Path) -> pa.Table:
    """The rows of all parts, in order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(target.glob("part-*.parquet"))])


def assert_result(target: Path, source: Path, bundle: Path) -> None:
    """Every row is there once, in order, with the vector that `encode` gives."""
    assert embedrt.bulk.check(target).is_whole
    found = rows_of(target)
    expected = pa.concat_tables([pq.read_table(path) for path in sorted(source.glob("*.parquet"))])
    assert found.select(["id", "body"]).equals(expected)
    vectors = found["embedding"].combine_chunks().flatten().to_numpy().reshape(ROWS, -1)
    np.testing.assert_allclose(vectors, Embedder(bundle).encode(expected["body"].to_pylist()), rtol=0, atol=ATOL)


def test_the_result_is_that_of_one_machine(
    engine: str, run: Run, source: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    report = run("out", engine=engine, engine_options={"workers": 2})
    assert report.is_whole
    assert report.done.rows == report.made.rows == ROWS
    assert_result(tmp_path / "out", source, tiny_bundle)


def test_a_job_is_resumed_across_engines(
    engine: str, run: Run, source: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    run("out", shard=(1, 3))
    assert not embedrt.bulk.check(tmp_path / "out").is_whole
    report = run("out", engine=engine, engine_options={"workers": 2})
    assert 0 < report.made.rows < ROWS
    assert_result(tmp_path / "out", source, tiny_bundle)
    assert run("out").made.rows == 0


@dataclass(frozen=True)
class Deadly:
    """The work of a job, of which the first worker dies once it has written the part of a unit, and another before."""

    work: UnitWork
    folder: str

    @property
    def model(self) -> str:
        """See `Work`."""
        return self.work.model

    def open(self, assigned: Assigned) -> Callable[[Task], Line]:
        """See `Work`."""
        compute = self.work.open(assigned)

        def unit(task: Task) -> Line:
            self._die("before", task.unit.number == 3)
            line = compute(task)
            self._die("after", task.unit.number == 7)
            return line

        return unit

    def _die(self, name: str, now: bool) -> None:
        mark = Path(self.folder, name)
        if now and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_are_killed_change_nothing(
    engine: str, run: Run, source: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "embedrt.bulk.engines.units.results",
        lambda name, work, items, options: results(name, Deadly(work, str(tmp_path)), items, options),
    )
    run("out", engine=engine, engine_options={"workers": 2})
    assert (tmp_path / "before").exists()
    assert (tmp_path / "after").exists()
    assert_result(tmp_path / "out", source, tiny_bundle)
    units = [json.loads(line)["unit"] for line in (tmp_path / "out/_job/manifest.jsonl").read_text().splitlines()]
    assert sorted(units) == list(range(find_job(tmp_path / "out").units))


def test_a_bundle_is_shipped(engine: str, run: Run, source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    run("out", engine=engine, engine_options={"workers": 2, "ship": 1})
    assert_result(tmp_path / "out", source, tiny_bundle)


def test_a_bad_row_is_the_error_of_the_job(engine: str, source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"body": ["a", "b", None, "d"]}), path)
    options: dict[str, Any] = {"model": tiny_bundle, "part_rows": 2, "engine": engine, "progress": False}
    with pytest.raises(BulkError, match=r"bad.parquet, row 2, column 'body': expected .*, got null"):
        embedrt.bulk.run(path, tmp_path / "out", **options)
    report = embedrt.bulk.run(path, tmp_path / "null", on_error="null", **options)
    assert report.done.failed == 1
    assert rows_of(tmp_path / "null")["embedding"].null_count == 1


def test_another_model_on_a_worker_is_an_error(
    engine: str, run: Run, minilm_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(name: str, work: UnitWork, items: Any, options: Any) -> Any:
        return results(name, UnitWork(str(minilm_bundle), work.transform, work.space), items, options)

    monkeypatch.setattr("embedrt.bulk.engines.units.results", other)
    with pytest.raises(BulkError, match=r"expected the model .* on a worker; copy the bundle there, or ship it"):
        run("out", engine=engine, engine_options={"workers": 1})


@pytest.mark.parametrize("scheme", ["lancedb", "qdrant", "chroma"])
def test_a_job_goes_into_a_database_once(scheme: str, run: Run, tmp_path: Path) -> None:
    url = f"{scheme}://{tmp_path}/database?table=texts"
    run("out", shard=(1, 2))
    first = embedrt.bulk.load(tmp_path / "out", url)
    assert 0 < first.parts < first.units
    run("out")
    second = embedrt.bulk.load(tmp_path / "out", url)
    assert second.parts == second.units
    assert first.rows + second.rows == ROWS
    assert embedrt.bulk.load(tmp_path / "out", url).rows == 0


def test_a_part_that_was_not_noted_is_written_again(run: Run, tmp_path: Path) -> None:
    url = f"lancedb://{tmp_path}/database?table=texts"
    run("out")
    embedrt.bulk.load(tmp_path / "out", url)
    (record,) = (tmp_path / "out/_job").glob("loaded-*.jsonl")
    record.write_text("\n".join(record.read_text().splitlines()[:3]) + '\n{"unit": 4, "sh')
    assert 0 < embedrt.bulk.load(tmp_path / "out", url).rows < ROWS

    import lancedb

    table = lancedb.connect(tmp_path / "database").open_table("texts").to_arrow()
    assert sorted(table["id"].to_pylist()) == sorted(f"row-{i}" for i in range(ROWS))


def test_a_table_that_was_dropped_is_written_again(run: Run, tmp_path: Path) -> None:
    import lancedb

    run("out")
    url = f"lancedb://{tmp_path}/database?table=texts"
    embedrt.bulk.load(tmp_path / "out", url)
    lancedb.connect(tmp_path / "database").drop_table("texts")
    assert embedrt.bulk.load(tmp_path / "out", url).rows == ROWS


def test_a_damaged_part_does_not_go_into_a_database(run: Run, tmp_path: Path) -> None:
    run("out")
    (tmp_path / "out/part-00000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(BulkError, match=r"part-00000002.parquet: expected the part of the manifest, got another one"):
        embedrt.bulk.load(tmp_path / "out", f"lancedb://{tmp_path}/database")

"""Engines with real workers: every unit once, whatever dies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedrt.bulk.engines import results
from embedrt.errors import BulkError
from tests.clusters.works import Squares


@pytest.fixture
def work(tmp_path: Path) -> Squares:
    """Work with a bundle of one file."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "embedrt.json").write_text("{}")
    return Squares(str(bundle), str(tmp_path))


def test_every_unit_is_computed_once_by_two_workers(engine: str, work: Squares) -> None:
    found = list(results(engine, work, range(40), {"workers": 2}))
    assert sorted(square for square, _, _ in found) == [i * i for i in range(40)]
    assert 1 <= len({pid for _, pid, _ in found}) <= 2
    assert {assigned.threads for _, _, assigned in found} == {1}


def test_units_are_drawn_as_workers_become_free(engine: str, work: Squares) -> None:
    drawn = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    outcomes = results(engine, work, numbers(), {"workers": 2})
    for _ in range(3):
        next(outcomes)
    assert len(drawn) < 20
    outcomes.close()  # type: ignore[attr-defined]


def test_a_worker_that_is_killed_changes_nothing(engine: str, work: Squares) -> None:
    deadly = Squares(work.model, work.folder, deadly=7)
    found = [square for square, _, _ in results(engine, deadly, range(20), {"workers": 2})]
    assert sorted(found) == [i * i for i in range(20)]
    assert Path(work.folder, "died").exists()


def test_a_unit_without_result_is_the_error_of_the_job(engine: str, work: Squares) -> None:
    failing = Squares(work.model, work.folder, failing=5)
    with pytest.raises(BulkError, match=r"^number 5: expected another one$"):
        list(results(engine, failing, range(20), {"workers": 2}))


def test_a_bundle_is_shipped_once(engine: str, work: Squares, own_store: Path) -> None:
    found = list(results(engine, work, range(4), {"workers": 2, "ship": 1}))
    (bundle,) = {assigned.bundle for _, _, assigned in found}
    assert bundle is not None
    assert Path(bundle, "embedrt.json").read_text() == "{}"


def test_no_units_make_no_outcomes(engine: str, work: Squares) -> None:
    assert list(results(engine, work, [], {"workers": "1"})) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": 2}, "engine option 'worker': expected one of "),
        ({"workers": "many"}, "got 'many'"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_options_are_checked(engine: str, work: Squares, options: dict[str, str | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(results(engine, work, [], options))


def test_unknown_engines_are_an_error(work: Squares) -> None:
    with pytest.raises(ValueError, match="engine: expected one of ray, spark, got 'dask'"):
        results("dask", work, [], {})

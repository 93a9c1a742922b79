"""The table of clients: merging of rows, and the page that is made of it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.kit.clients import PAGE, TABLE, VARIABLE, Row, max_error, merge, read_rows, recorder, render
from tests.kit.pages import ROOT, text

FIRST = Row("B", "1.0", "embed", 1e-7, "tests/clients/test_programs.py")
SECOND = Row("a", "2.0", "embed", 0.0, "tests/integrations/test_a.py")


def test_the_page_is_made_of_the_table() -> None:
    rows = [Row(**row) for row in json.loads(TABLE.read_bytes())]
    assert text(PAGE) == render(rows)
    assert rows == merge(rows, [])
    assert {row.test for row in rows} <= {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")
    }


def test_what_was_measured_replaces_the_rows_of_its_tests_alone() -> None:
    gone = Row("B", "0.9", "embed, as it was", 1e-7, FIRST.test)
    assert merge([gone, SECOND], [FIRST]) == [SECOND, FIRST]
    assert merge([FIRST, SECOND], []) == [SECOND, FIRST]


def test_the_largest_error_of_a_call_is_kept() -> None:
    larger = Row(FIRST.client, FIRST.version, FIRST.called, 3e-7, FIRST.test)
    assert merge([], [larger, FIRST]) == merge([], [FIRST, larger]) == [larger]


def test_an_error_is_recorded_if_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorder("tests/integrations/test_a.py")
    monkeypatch.delenv(VARIABLE, raising=False)
    record("a", "1.0", "embed", 0.0)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "rows.jsonl"))
    record("a", "2.0", "embed", 0.0)
    record("a", "2.0", "embed in a browser", 5e-6, tolerance=1e-5)
    first, second = read_rows(tmp_path / "rows.jsonl")
    assert first == SECOND
    assert asdict(second) == {**asdict(first), "called": "embed in a browser", "error": 5e-6}


@pytest.mark.parametrize("error", [2e-6, float("nan")])
def test_a_large_error_is_none_of_the_table(error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "rows.jsonl"))
    with pytest.raises(AssertionError, match=r"a 2\.0, embed: error"):
        recorder("test")("a", "2.0", "embed", error)
    assert not (tmp_path / "rows.jsonl").exists()


def test_errors_are_of_equal_shapes() -> None:
    assert max_error([[1, 2]], [[1, 4]]) == 2
    with pytest.raises(AssertionError, match="shape"):
        max_error([1, 1], [[1], [1]])

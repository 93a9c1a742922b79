"""The benchmark of rerankers and sparse encoders: its arithmetic, its texts, its tables, and engines that fail."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tasks
from benchmarks.task_engines import compared
from benchmarks.tasks import REFERENCE, Engine, Job, Measured
from embedrt.inputs.text import read_tokenizer


def measured(seconds: list[float], values: list[list[float]]) -> Measured:
    return Measured(seconds=seconds, peak_rss_mb=300.4, values=[np.array(row, np.float32) for row in values])


JOB = Job({name: Engine("x", "y", "int8") for name in ("embedrt", REFERENCE)}, Path(), Path(), [])


@pytest.mark.parametrize(
    ("scores", "others", "expected"),
    [
        ([3, 2, 1], [30, 20, 10], 1.0),
        ([3, 2, 1], [10, 20, 30], 0.0),
        ([3, 2, 1], [20, 30, 10], 2 / 3),
        ([3, 3, 1], [30, 20, 10], 2 / 3),
        ([1], [2], 1.0),
    ],
)
def test_same_order(scores: list[float], others: list[float], expected: float) -> None:
    assert tasks.same_order(np.array(scores, np.float32), np.array(others, np.float32)) == pytest.approx(expected)


def test_what_a_record_says() -> None:
    own = measured([1.0, 2.0, 1.0], [[1, 2, 3], [1, 2, 3], [3, 2, 1]])
    theirs = measured([3.0, 4.0, 4.0], [[1, 2, 3], [1, 2, 3], [1, 2, 3.5]])
    found = tasks.as_record({"embedrt": own, REFERENCE: theirs}, JOB)["embedrt"]
    assert found["ratio"]["median"] == 3.0
    assert (found["max_error"], found["peak_rss_mb"]) == (2.5, 300)
    assert found["same_order"] == pytest.approx(2 / 3)
    assert found["same_first"] == pytest.approx(2 / 3)


def test_weights_have_no_order() -> None:
    own, theirs = Measured(values=[np.ones((2, 3), np.float32)]), Measured(values=[np.zeros((2, 3), np.float32)])
    found = tasks.as_record({"embedrt": own, REFERENCE: theirs}, JOB)["embedrt"]
    assert (found["max_error"], found["same_order"], found["same_first"]) == (1.0, None, None)


def test_an_engine_that_fails_has_no_ratio() -> None:
    job = Job(
        {"embedrt": Engine("no such loader", "embedrt"), "x": Engine("x", "no_such_package")}, Path(), Path(), [{}]
    )
    found = tasks.measure(job)
    assert set(found) == {"embedrt"}
    record = tasks.as_record(found, job)["embedrt"]
    assert "KeyError" in record["error"]
    assert (record["ratio"], record["seconds_s"]) == (None, None)


def test_targets_and_tables() -> None:
    own, theirs = measured([1.0], [[1, 2]]), measured([2.5], [[1, 2]])
    rerank = tasks.as_record(
        {"embedrt": own, REFERENCE: theirs, "x": Measured("no | luck\nat all")},
        Job({**JOB.engines, "x": Engine("x", "y")}, Path(), Path(), []),
    )
    verdicts = list(tasks.verdicts(rerank, {}))
    assert [row.met for row in verdicts] == [True, None, True, None, None]
    record = {
        "machine": {"title": "A machine", "python": "3.11"},
        "versions": {"embedrt": "1"},
        "date": "2026-01-01T00:00:00",
        "command": "python",
        "file": "f.json",
        "corpus": "texts",
        "rounds": 1,
        "rerank": rerank,
        "mixed": rerank,
        "sparse": rerank,
        "sparse_documents": 5,
        "targets": [],
    }
    lines = list(tasks.task_tables([record]))
    assert "| embedrt | int8 | 1.000 | 2.50x | 0.0e+00 | 1.0000 | 1.00 | 300 |" in lines
    bars = [line.replace(r"\|", "").count("|") for line in lines if line.startswith("|")]
    assert bars == [9] * 10 + [7] * 5 + [4] * 2
    assert json.dumps(rerank)


def test_documents_have_about_150_tokens(minilm_source: Path) -> None:
    texts = tasks.documents(minilm_source / "tokenizer.json", 20)
    tokenizer = read_tokenizer(minilm_source / "tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert len(set(texts)) == 20
    assert all(140 <= len(tokenizer.encode(text).ids) <= 160 for text in texts)
    assert len(set(tasks.queries(8))) == 8


def test_values_of_either_library_are_compared() -> None:
    scores = np.arange(3, dtype=np.float32)
    assert compared(scores) is scores

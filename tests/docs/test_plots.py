"""Plots of docs/performance.md: one bar a measurement, in order, and none for what failed."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from benchmarks.plots import plot_page, plots
from benchmarks.render import newest, newest_bulk, newest_servers, newest_tasks
from tests.kit.bench_results import MACHINE, made, result

SVG = "{http://www.w3.org/2000/svg}"
OWN, REFERENCE = "embedrt", "sentence-transformers"


def record(**fields: Any) -> dict[str, Any]:
    """A record of a benchmark, with what every plot shows."""
    about = {"machine": MACHINE, "date": "2026-11-27T10:00:00+00:00", "command": "python -m x", "file": "f.json"}
    return about | fields


def server(p50: float, p99: float | None, speed: float = 10.0, error: str | None = None) -> dict[str, Any]:
    """The measurements of a server: every latency the same."""
    pairs = {
        f"{key}_{at}_ms": value for key in ("one", "eight", "beside") for at, value in (("p50", p50), ("p99", p99))
    }
    return {"error": error, "texts_per_second": {"median": speed}, **pairs}


def bars(svg: str) -> list[tuple[str, int]]:
    """Class and width of each bar."""
    found = list(ET.fromstring(svg).iter(f"{SVG}rect"))[1:]
    return [(bar.attrib["class"], int(bar.attrib["width"])) for bar in found]


def words(svg: str) -> list[str]:
    return [found.text or "" for found in ET.fromstring(svg).iter(f"{SVG}text")]


def test_start_and_memory_have_the_least_first() -> None:
    engines = {name: result(name, 10) for name in (REFERENCE, OWN)}
    engines[OWN].start_seconds = [0.25]
    engines[REFERENCE].start_seconds = [5.0]
    _, plot = plots([made(engines)], [], [], [])
    (kind, start), (other, most), *memory = bars(plot.svg)
    assert (kind, other) == ("own", "reference")
    assert start == pytest.approx(most / 20, abs=1)
    assert len(memory) == 2
    assert {"0.25 s", "5.00 s", "100 MB"} <= set(words(plot.svg))


def test_latencies_are_on_a_logarithmic_scale_with_a_line_to_the_99th_percentile() -> None:
    servers = {
        "embedrt": server(10, 1000),
        "FastAPI + sentence-transformers": server(100, 1000),
        "other": server(100, None),
        "broken": server(1, 2, error="no"),
    }
    (plot,) = plots([], [], [record(servers=servers)], [])
    throughput, *latencies = bars(plot.svg)[:3], bars(plot.svg)[3:5]
    assert [kind for kind, _ in throughput] == ["own", "reference", "peer"]
    ((_, short), (_, long)) = latencies[0]
    assert long == pytest.approx(2 * short, abs=1)
    lines = [line.attrib["points"] for line in ET.fromstring(plot.svg).iter(f"{SVG}polyline")]
    assert len(lines) == 3 * 2
    assert len({line.split()[1].split(",")[0] for line in lines}) == 1, "all have the same 99th percentile"
    assert "p50 10.0 ms, p99 1000.0 ms" in words(plot.svg)
    assert "broken" not in words(plot.svg)


def test_tasks_and_bulk_jobs_have_the_fastest_first() -> None:
    ratios = {
        name: {"error": None, "ratio": {"median": ratio}}
        for name, ratio in ((REFERENCE, 1.0), (OWN, 2.0), ("fastembed", 0.5))
    }
    rows = {
        name: {"error": None, "dtype": "float32", "rows_per_s": {"median": speed}}
        for name, speed in (("Ray Data, sentence-transformers", 10.0), ("embedrt bulk", 40.0))
    }
    rows["Daft, embedrt"] = {"error": "no", "dtype": "float32", "rows_per_s": None}
    tasks, bulk = plots([], [record(rerank=ratios, mixed=ratios, sparse=ratios)], [], [record(engines=rows)])
    assert [kind for kind, _ in bars(tasks.svg)] == ["own", "reference", "peer"] * 3
    assert bars(bulk.svg)[0][1] == pytest.approx(4 * bars(bulk.svg)[1][1], abs=2)
    assert len(bars(bulk.svg)) == 2


def test_the_page_names_the_file_of_every_record() -> None:
    found = plots(newest(), newest_tasks(), newest_servers(), newest_bulk())
    page = "\n".join(plot_page(found))
    for plot in found:
        assert f"]({plot.file})" in page
        for one in plot.records:
            assert f"`benchmarks/results/{one['file']}`" in page
    assert not re.search(r"\d+ texts/s", page), "figures stand in the plots"


def test_without_records_there_are_no_plots() -> None:
    assert plots([], [], [], []) == []

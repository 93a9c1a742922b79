"""Plots of docs/performance.md, from the records of engines, servers, rerankers and bulk jobs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from embedrt.bench.engines import Role, role
from embedrt.bench.plot import Bar, Draw, Panel, bars, chart, draw, panel

Record = Mapping[str, Any]
# Latencies are drawn on a logarithmic scale from here on.
_LEAST_MS = 1.0


@dataclass(frozen=True)
class Plot:
    """One plot of the page.

    Attributes:
        file: Its file, in the folder of the page.
        title: Its heading.
        about: What was measured, and how to read it.
        svg: The plot.
        records: The records that it shows.
    """

    file: str
    title: str
    about: str
    svg: str
    records: Sequence[Record]


def plots(
    engines: Sequence[Record], tasks: Sequence[Record], servers: Sequence[Record], bulks: Sequence[Record]
) -> list[Plot]:
    """The plots that there are records for."""
    latest: list[tuple[str, str, str, Callable[[Sequence[Record]], str], Sequence[Record]]] = [
        (
            "speed.svg",
            "Throughput",
            (
                "Texts of mixed lengths, many at once. More is better. In brackets: the ratio to sentence-transformers "
                "in the same round, and the mean cosine similarity to its vectors."
            ),
            draw,
            engines,
        ),
        (
            "start-and-memory.svg",
            "Start and memory",
            (
                "Seconds from the start of a process to its first vector, with files cached, and the largest RSS over "
                "all workloads. Less is better."
            ),
            _start_and_memory,
            engines,
        ),
        (
            "servers.svg",
            "Servers",
            (
                "The same model behind HTTP; server and client share the cores. Latencies are on a logarithmic scale: "
                'the bar ends at the median, the line at the 99th percentile. "Beside a stream" is a query while '
                "another client sends 10,000 texts."
            ),
            _servers,
            servers,
        ),
        (
            "tasks.svg",
            "Rerankers and sparse encoders",
            "Speed relative to sentence-transformers in float32, in the same round. More is better.",
            _tasks,
            tasks,
        ),
        (
            "bulk.svg",
            "Bulk jobs",
            (
                "Parquet files of texts to Parquet files of vectors, from the start of the process to its end. More is "
                "better."
            ),
            _bulk,
            bulks,
        ),
    ]
    return [Plot(file, title, about, make(records), records) for file, title, about, make, records in latest if records]


def plot_page(found: Iterable[Plot]) -> Iterator[str]:
    """The plots as Markdown, each with what was measured, and the files of its figures."""
    for plot in found:
        yield f"## {plot.title}"
        yield ""
        yield plot.about
        yield ""
        yield f"![{plot.title}: {plot.about.partition('. ')[0]}]({plot.file})"
        yield ""
        for record in plot.records:
            yield f"- {record['machine']['title']}: `benchmarks/results/{record['file']}`"
        yield ""


def _start_and_memory(records: Sequence[Record]) -> str:
    panels: list[tuple[Draw, Record]] = []
    for record in records:
        panels += [(_starts, record), (_memories, record)]
    return chart("Time to the first vector, and peak memory", panels)


def _starts(record: Record, top: int) -> Panel:
    seconds = {name: engine["cold_start_s"] for name, engine in _alike(record)}
    values = {name: found["median"] for name, found in seconds.items() if found}
    return _least_first(f"Seconds to the first vector, {record['machine']['title']}", record, values, "{:.2f} s", top)


def _memories(record: Record, top: int) -> Panel:
    values = {name: engine["peak_rss_mb"] for name, engine in _alike(record) if engine["peak_rss_mb"]}
    return _least_first(f"Peak memory, {record['machine']['title']}", record, values, "{:.0f} MB", top)


def _alike(record: Record) -> list[tuple[str, Record]]:
    """Engines with vectors like the reference's."""
    return [(name, record["engines"][name]) for name, _ in bars(record)]


def _least_first(title: str, record: Record, values: Mapping[str, float], form: str, top: int) -> Panel:
    most = max(values.values(), default=1.0)
    rows = [
        Bar(f"{name} ({record['engines'][name]['dtype']})", role(name), value / most, form.format(value))
        for name, value in sorted(values.items(), key=lambda item: item[1])
    ]
    return panel(title, f"{record['model']}; {record['date'][:10]}", rows, top)


def _servers(records: Sequence[Record]) -> str:
    panels: list[tuple[Draw, Record]] = []
    for record in records:
        panels.append((_throughput, record))
        panels += [
            (partial(_latency, key, title), record)
            for key, title in (
                ("one", "One query at a time"),
                ("eight", "Queries of 8 clients"),
                ("beside", "A query beside a stream"),
            )
        ]
    return chart("Throughput and latency of servers", panels)


def _measured(engines: Mapping[str, Record]) -> dict[str, Record]:
    return {name: engine for name, engine in engines.items() if not engine["error"]}


def _throughput(record: Record, top: int) -> Panel:
    speeds = {name: one["texts_per_second"]["median"] for name, one in _measured(record["servers"]).items()}
    title = f"Texts per second over HTTP, {record['machine']['title']}"
    return panel(title, _served(record), _longest_first(speeds, "{:.0f} texts/s"), top)


def _latency(key: str, title: str, record: Record, top: int) -> Panel:
    pairs = {
        name: (one[f"{key}_p50_ms"], one[f"{key}_p99_ms"])
        for name, one in _measured(record["servers"]).items()
        if one[f"{key}_p50_ms"] and one[f"{key}_p99_ms"]
    }
    most = max((p99 for _, p99 in pairs.values()), default=_LEAST_MS)

    def share(milliseconds: float) -> float:
        return math.log(max(milliseconds, _LEAST_MS) / _LEAST_MS) / max(math.log(most / _LEAST_MS), 1e-9)

    rows = [
        Bar(name, _whose(name), share(p50), f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", share(p99))
        for name, (p50, p99) in sorted(pairs.items(), key=lambda item: item[1])
    ]
    return panel(f"{title}, {record['machine']['title']}", _served(record), rows, top)


def _served(record: Record) -> str:
    return f"all-MiniLM-L6-v2; {record['date'][:10]}"


def _tasks(records: Sequence[Record]) -> str:
    return chart(
        "Speed of rerankers and sparse encoders relative to sentence-transformers",
        [
            (partial(_ratios, key, title), record)
            for record in records
            for key, title in (
                ("rerank", "Reranking documents of 150 tokens"),
                ("mixed", "Reranking documents of all lengths"),
                ("sparse", "Sparse encoding of documents of 150 tokens"),
            )
        ],
    )


def _ratios(key: str, title: str, record: Record, top: int) -> Panel:
    ratios = {name: one["ratio"]["median"] for name, one in _measured(record[key]).items() if one["ratio"]}
    return panel(f"{title}, {record['machine']['title']}", record["date"][:10], _longest_first(ratios, "{:.2f}x"), top)


def _bulk(records: Sequence[Record]) -> str:
    return chart("Rows per second of bulk jobs", [(_rows, record) for record in records])


def _rows(record: Record, top: int) -> Panel:
    speeds = {
        name if one["dtype"] in name else f"{name} ({one['dtype']})": one["rows_per_s"]["median"]
        for name, one in _measured(record["engines"]).items()
    }
    title = f"Rows per second, {record['machine']['title']}"
    return panel(title, f"all-MiniLM-L6-v2; {record['date'][:10]}", _longest_first(speeds, "{:.0f} rows/s"), top)


def _longest_first(values: Mapping[str, float], form: str) -> list[Bar]:
    most = max(values.values(), default=1.0)
    ordered = sorted(values.items(), key=lambda item: -item[1])
    return [Bar(name, _whose(name), value / most, form.format(value)) for name, value in ordered]


def _whose(name: str) -> Role:
    """Whose engine it is, by a name that may have several parts."""
    if "embedrt" in name or "encode_iter" in name:
        return "own"
    return "reference" if "sentence-transformers" in name else "peer"

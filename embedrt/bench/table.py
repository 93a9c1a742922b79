"""A record as text for a terminal: quality and memory beside every speed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NONE = "-"


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The circumstances, a table of speeds, a table of the rest, and the settings."""
    yield from _head(record)
    yield ""
    yield from _speeds(record)
    yield ""
    yield from _rest(record)
    yield ""
    yield from _scaling(record)
    yield from _streams(record)
    yield from _notes(record)


def _head(record: Mapping[str, Any]) -> Iterator[str]:
    machine = record["machine"]
    sets = ", ".join(machine["instruction_sets"]) or "none known"
    hidden = ", ".join(machine["hidden_instruction_sets"])
    packages = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    yield f"{record['model']} on {machine['title']}"
    yield f"  {record['date']}  {record['command']}"
    yield f"  instruction sets: {sets}{f'; hidden: {hidden}' if hidden else ''}"
    memory = f"{machine['memory_gb']} GB" if machine["memory_gb"] else "unknown memory"
    yield f"  {machine['usable_cores']} of {machine['cores']} cores, {memory}, {machine['system']}"
    yield f"  Python {machine['python']}, {packages}"
    yield f"  load average before {record['load_average_before']}, after {record['load_average_after']}"
    yield f"  texts: {record['corpus']}"
    for name, some in record["workloads"].items():
        yield f"    {name}: {some['texts']} texts, mean {some['mean_tokens']} tokens"


def _speeds(record: Mapping[str, Any]) -> Iterator[str]:
    workloads = list(dict.fromkeys(name for engine in record["engines"].values() for name in engine["workloads"]))
    heads = [part for name in workloads for part in (f"{name}, texts/s", "ratio (low-high)")]
    rows = [["engine", "dtype", *heads]]
    marks = set()
    for name, engine in record["engines"].items():
        row = [name, engine["dtype"]]
        for workload in workloads:
            run = engine["workloads"].get(workload)
            mark = _mark(run)
            marks.add(mark)
            row += [_NONE, _NONE] if run is None else [f"{_short(run['texts_per_s']['median'])}{mark}", _ratio(run)]
        rows.append(row)
    yield from _aligned(rows, left=2)
    yield f"ratio: throughput relative to {record['reference'] or 'nothing'} in the same round"
    if "*" in marks:
        yield "*: other programs disturbed some rounds; the ratio leaves these out"
    if "!" in marks:
        yield "!: other programs disturbed every round; repeat the measurement on a quiet machine"


def _mark(run: Mapping[str, Any] | None) -> str:
    if run is None or run["undisturbed_rounds"] == run["rounds"]:
        return ""
    return "*" if run["undisturbed_rounds"] else "!"


def _rest(record: Mapping[str, Any]) -> Iterator[str]:
    rows = [["engine", "one text p50, ms", "p99, ms", "start, s", "peak RSS, MB", "cosine mean", "min", "max error"]]
    for name, engine in record["engines"].items():
        runs = [run for run in engine["workloads"].values() if run["mean_cosine"] is not None]
        one, start = engine["one_text"], engine["cold_start_s"]
        rows.append(
            [
                name,
                *([f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}"] if one else [_NONE, _NONE]),
                f"{start['median']:.2f}" if start else _NONE,
                f"{engine['peak_rss_mb']:.0f}" if engine["peak_rss_mb"] else _NONE,
                f"{min(run['mean_cosine'] for run in runs):.6f}" if runs else _NONE,
                f"{min(run['min_cosine'] for run in runs):.6f}" if runs else _NONE,
                f"{max(run['max_abs_error'] for run in runs):.1e}" if runs else _NONE,
            ]
        )
    yield from _aligned(rows, left=1)
    yield f"cosine and max error: to the vectors of {record['reference'] or 'nothing'}, the worst workload"


def _scaling(record: Mapping[str, Any]) -> Iterator[str]:
    scaled = {name: engine["scaling"] for name, engine in record["engines"].items() if engine["scaling"]}
    if not scaled:
        return
    counts = list(dict.fromkeys(step["cores"] for steps in scaled.values() for step in steps))
    rows = [["texts/s (efficiency)", *(f"{count} core{'s' * (count > 1)}" for count in counts)]]
    for name, steps in scaled.items():
        found = {step["cores"]: step for step in steps}
        cells = [
            f"{_short(found[count]['texts_per_s']['median'])} ({found[count]['efficiency']:.2f})"
            if count in found
            else _NONE
            for count in counts
        ]
        rows.append([name, *cells])
    yield from _aligned(rows, left=1)
    yield ""


def _streams(record: Mapping[str, Any]) -> Iterator[str]:
    streams = {name: engine["stream"] for name, engine in record["engines"].items() if engine["stream"]}
    if not streams:
        return
    rows = [["stream", "texts", "texts/s", "peak RSS, MB"]]
    for name, stream in streams.items():
        peak = f"{stream['peak_rss_mb']:.0f}" if stream["peak_rss_mb"] else _NONE
        rows.append([name, str(stream["texts"]), _short(stream["texts_per_s"]), peak])
    yield from _aligned(rows, left=1)
    yield ""


def _notes(record: Mapping[str, Any]) -> Iterator[str]:
    for name, engine in record["engines"].items():
        yield f"{name} {engine['version']}: {engine['settings']}"
        if engine["error"] is not None:
            yield f"  failed: {engine['error']}"
    for name, why in record["left_out"].items():
        yield f"{name} is left out: {why}"


def _ratio(run: Mapping[str, Any]) -> str:
    ratio = run["ratio"]
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else _NONE


def _short(speed: float) -> str:
    return f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"


def _aligned(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Columns of equal width; so many of them start at the left, the others end at the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [f"{cell:{'<' if at < left else '>'}{widths[at]}}" for at, cell in enumerate(row)]
        yield "  ".join(cells).rstrip()

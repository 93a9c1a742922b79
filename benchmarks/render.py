"""README row, docs/measured.md, docs/performance.md and its plots, generated from the newest results of each machine.

python -m benchmarks.render        # `make bench` ends with it
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import bulk, quality, serving, tasks
from benchmarks.bulk import bulk_tables
from benchmarks.gpu.record import KIND, gpu_tables
from benchmarks.plots import plot_page, plots
from benchmarks.quality import quality_tables
from benchmarks.repository import ROOT
from benchmarks.serving import serving_tables
from benchmarks.targets import target_table
from benchmarks.tasks import task_tables
from embedrt.bench.engines import OWN, OWN_INT8, REFERENCE, role
from embedrt.bench.plot import cosine
from embedrt.bench.record import read_record

RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- generated from benchmarks/results: begin -->", "<!-- generated from benchmarks/results: end -->"
_NONE = "-"


def newest(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest record of each machine, by the machine's name.

    Raises:
        ValueError: A file has another format version.
    """
    return _newest(folder, None, lambda record: record["machine"]["name"])


def newest_gpus(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest record of each GPU, by the GPU's name.

    Raises:
        ValueError: A file has another format version.
    """
    return _newest(folder, KIND, lambda record: record["machine"]["gpu"])


def newest_tasks(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest record of rerankers and sparse encoders on each machine, by the machine's name.

    Raises:
        ValueError: A file has another format version.
    """
    return _newest(folder, tasks.KIND, lambda record: record["machine"]["name"])


def newest_quality(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest record of scores on each machine, by the machine's name.

    Raises:
        ValueError: A file has another format version.
    """
    return _newest(folder, quality.KIND, lambda record: record["machine"]["name"])


def newest_servers(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest record of servers on each machine, by the machine's name.

    Raises:
        ValueError: A file has another format version.
    """
    return _newest(folder, serving.KIND, lambda record: record["machine"]["name"])


def newest_bulk(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest record of bulk jobs on each machine, by the machine's name.

    Raises:
        ValueError: A file has another format version.
    """
    return _newest(folder, bulk.KIND, lambda record: record["machine"]["name"])


def _newest(folder: Path, kind: str | None, name_of: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):  # the date comes first in the name
        record = read_record(path)
        if record.get("kind") == kind:
            records[name_of(record)] = {**record, "file": path.name}
    return [records[name] for name in sorted(records)]


def pages(
    records: Sequence[Mapping[str, Any]],
    gpus: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
    servers: Sequence[Mapping[str, Any]],
    bulks: Sequence[Mapping[str, Any]],
) -> dict[Path, str]:
    """Contents of every file that shows measured numbers, by path."""
    docs = ROOT / "docs"
    readme, measured, performance = ROOT / "README.md", docs / "measured.md", docs / "performance.md"
    drawn = plots(records, others, servers, bulks)
    return {
        readme: between(readme.read_text(encoding="utf-8"), readme_table(records)),
        measured: between(
            measured.read_text(encoding="utf-8"),
            chain(
                machine_tables(records),
                quality_tables(scores),
                task_tables(others),
                bulk_tables(bulks),
                serving_tables(servers),
                gpu_tables(gpus),
            ),
        ),
        performance: between(performance.read_text(encoding="utf-8"), plot_page(drawn)),
        **{docs / plot.file: plot.svg for plot in drawn},
    }


def between(page: str, generated: Iterator[str]) -> str:
    """The page with the text between its markers replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, "", *generated, "", END]) + after


def readme_table(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each machine: speed, accuracy, cold start and memory of both dtypes against sentence-transformers."""
    yield (
        "| machine | float32 texts/s | int8 texts/s | max abs error of float32 | mean cosine of int8 "
        "| time to first vector | peak memory (RSS) |"
    )
    yield "|---|---|---|---|---|---|---|"
    for record in (record for record in records if record["reference"] == REFERENCE):
        engines = record["engines"]
        own, int8, theirs = (engines.get(name) for name in (OWN, OWN_INT8, REFERENCE))
        error = max((run["max_abs_error"] or 0.0 for run in own["workloads"].values()), default=0.0) if own else 0.0
        yield (
            f"| {record['machine']['title']} | {_speed(own)} | {_speed(int8)} | {error:.1e} | {_mean_cosine(int8)} "
            f"| {_start(own)} ({_start(theirs)}) | {_memory(own)} ({_memory(theirs)}) |"
        )


def machine_tables(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each machine: the circumstances, a table of engines and a table of targets."""
    for record in records:
        yield from _head(record)
        yield ""
        yield from _engines(record)
        yield ""
        if record["targets"]:
            yield "### Targets"
            yield ""
            yield from target_table(record["targets"])
            yield ""
        yield from _settings(record)
        yield ""


def _head(record: Mapping[str, Any]) -> Iterator[str]:
    machine = record["machine"]
    memory = f"{machine['memory_gb']} GB" if machine["memory_gb"] else "memory size not recorded"
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    yield f"## {machine['title']}"
    yield ""
    cores = f"{machine['usable_cores']} of {machine['cores']} cores"
    yield f"- Machine: {machine['cpu']}, {cores}, {memory}, {machine['system']}"
    hidden = ", ".join(machine["hidden_instruction_sets"])
    sets = ", ".join(machine["instruction_sets"]) or "none recorded"
    yield f"- Instruction sets: {sets}{f'; hidden from every engine: {hidden}' if hidden else ''}"
    yield f"- Versions: Python {machine['python']}, {versions}"
    yield f"- Measured {record['date'][:10]} with `{record['command']}`; file `benchmarks/results/{record['file']}`"
    yield f"- Model: {record['model']}. Texts: {record['corpus']}"
    yield "- Workloads: " + "; ".join(
        f"{name}: {some['texts']} texts of {some['mean_tokens_read']} tokens on average"
        for name, some in record["workloads"].items()
    )
    if record["search"]:
        yield f"- Search: {record['search']['queries']} queries among {record['search']['documents']} documents"
    rates = record["matmul"] or {}
    one, every = (rates.get(f"{cores}_gflop_per_s") for cores in ("one_core", "all_cores"))
    if one and every:
        yield (
            f"- float32 matrix multiplication in ONNX Runtime: {one['median']:.0f} GFLOP/s on one core, "
            f"{every['median']:.0f} on all"
        )
    yield from _scaling(record)
    yield from _streams(record)
    yield from _long_text(record)
    if record["note"]:
        yield f"- Note: {record['note']}"


def _engines(record: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "| engine | dtype | mixed texts/s (ratio) | short | long | one text p50 / p99, ms | cold start, s "
        "| peak memory, MB | mean cosine | min cosine | max abs error | nDCG@10, points |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    order = {"own": 0, "reference": 1, "peer": 2}
    for name, engine in sorted(record["engines"].items(), key=lambda item: order[role(item[0])]):
        shown = f"**{name}**" if role(name) == "own" else name
        if engine["error"]:
            yield f"| {shown} | {engine['dtype']} | failed: {_cell(engine['error'])} |" + " |" * 9
            continue
        runs = [run for run in engine["workloads"].values() if run["mean_cosine"] is not None]
        one = engine["one_text"]
        lost = engine["ndcg_difference"]
        yield " | ".join(
            [
                f"| {shown}",
                engine["dtype"],
                *(_speed(engine, workload) for workload in ("mixed", "short", "long")),
                f"{one['p50_ms']:.2f} / {one['p99_ms']:.2f}" if one else _NONE,
                _start(engine).removesuffix(" s"),
                _memory(engine).removesuffix(" MB"),
                cosine(min((run["mean_cosine"] for run in runs), default=None)),
                cosine(min((run["min_cosine"] for run in runs), default=None)),
                f"{max(run['max_abs_error'] for run in runs):.1e}" if runs else _NONE,
                f"{lost:+.2f} |" if lost is not None else f"{_NONE} |",
            ]
        )


def _scaling(record: Mapping[str, Any]) -> Iterator[str]:
    scaled = {name: found for name, engine in record["engines"].items() if (found := engine["scaling"])}
    if not scaled:
        return
    if all(len(steps) == 2 for steps in scaled.values()):
        most = next(iter(scaled.values()))[-1]["cores"]
        ratios = ", ".join(f"{name} {steps[-1]['ratio']['median']:.2f}x" for name, steps in scaled.items())
        yield f"- Throughput of {most} cores over one: {ratios}"
        return
    for name, steps in scaled.items():
        found = ", ".join(f"{step['efficiency']:.2f} with {step['cores']}" for step in steps[1:])
        yield f"- Throughput per core relative to one core, {name}: {found}"


def _long_text(record: Mapping[str, Any]) -> Iterator[str]:
    if not (found := record["long_text"]):
        return
    yield f"- One text of {found['tokens']} tokens, {found['model']}: " + "; ".join(
        f"{name} failed"
        if engine["error"]
        else f"{name} {engine['time_s']['median']:.1f} s and "
        + (f"{engine['over_rss_mb']['median']:.0f} MB over the model" if engine["over_rss_mb"] else "memory not known")
        for name, engine in found["engines"].items()
    )


def _streams(record: Mapping[str, Any]) -> Iterator[str]:
    for name, engine in record["engines"].items():
        if stream := engine["stream"]:
            yield (
                f"- Stream of {stream['texts']} texts through `encode_iter`, {name}: "
                f"{stream['texts_per_s']:.0f} texts/s, peak memory {stream['peak_rss_mb']:.0f} MB"
            )


def _settings(record: Mapping[str, Any]) -> Iterator[str]:
    yield '??? note "Settings of each engine"'
    yield ""
    for name, engine in record["engines"].items():
        yield f"    - {name} {engine['version']}: {engine['settings']}"
    for name, why in record["left_out"].items():
        yield f"    - {name}: {why}"


def _speed(engine: Mapping[str, Any] | None, workload: str = "mixed") -> str:
    run = engine and engine["workloads"].get(workload)
    if not run:
        return _NONE
    speed = run["texts_per_s"]["median"]
    shown = f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"
    return f"{shown} ({run['ratio']['median']:.2f}x)" if run["ratio"] else shown


def _mean_cosine(engine: Mapping[str, Any] | None) -> str:
    found = [run["mean_cosine"] for run in engine["workloads"].values()] if engine else []
    return cosine(min((value for value in found if value is not None), default=None))


def _start(engine: Mapping[str, Any] | None) -> str:
    return f"{engine['cold_start_s']['median']:.2f} s" if engine and engine["cold_start_s"] else _NONE


def _memory(engine: Mapping[str, Any] | None) -> str:
    return f"{engine['peak_rss_mb']:.0f} MB" if engine and engine["peak_rss_mb"] else _NONE


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:200]


def main() -> None:
    """Write the files."""
    for path, text in pages(
        newest(), newest_gpus(), newest_tasks(), newest_quality(), newest_servers(), newest_bulk()
    ).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

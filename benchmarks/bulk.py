"""Bulk jobs against the peers: Parquet to Parquet, the same rows, engines in turn, each in a process of its own.

    python -m benchmarks.bulk --keep DIR --output benchmarks/results --rows 200000     # `make bench-bulk`

Rows are entries of the corpus with a number before them, so that no text is there twice. The time is that of the
process from its start to its end. An engine that would take an hour gets fewer rows, and the comparison is by rows a
second. Peak memory is that of the process and all below it, as the kernel divides shared pages among them (PSS).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bulk_engines import vectors_of
from benchmarks.corpus import load_corpus
from benchmarks.models import packaged
from benchmarks.record import circumstances, heading, write
from benchmarks.repository import ROOT
from benchmarks.targets import Verdict, at_least, at_most, target_table
from embedrt.bench.model import export
from embedrt.bench.process import OFFLINE
from embedrt.bench.record import spread

KIND = "bulk"
_WAIT_SECONDS = 0.1
_COMPARED = 500
REFERENCE = "Ray Data, sentence-transformers"
UNITS = {
    "*_s": "seconds of the process from start to end: median, lowest and highest round",
    "rows_per_s": "rows divided by these seconds",
    "ratio": "speed relative to the reference of the line in the same round: median, lowest and highest round",
    "peak_rss_mb": "most memory at once of the process and all below it (PSS), in 10^6 bytes",
    "second_half_rss_mb": "the same after half the time",
    "max_error": "largest absolute difference of a coordinate to Embedder.encode in float32",
}
_COLUMNS = [
    *("engine", "dtype", "rows", "rows/s", "speed", "compared with"),
    *("peak memory, MB", "in the second half", "max error"),
]
_NONE = "-"


@dataclass(frozen=True)
class Engine:
    """An engine that is measured.

    Attributes:
        run: The name in `benchmarks.bulk_engines.ENGINES`.
        packages: The packages that it needs, as they are imported.
        dtype: The dtype of the model.
        against: The engine that its speed is compared with.
        few: Whether it gets the fewer rows.
    """

    run: str
    packages: tuple[str, ...] = ()
    dtype: str = "float32"
    against: str = REFERENCE
    few: bool = False


ENGINES = {
    "encode_iter": Engine("embedrt_stream", few=True),
    "embedrt bulk": Engine("embedrt_bulk", against="encode_iter", few=True),
    "encode_iter int8": Engine("embedrt_stream", dtype="int8"),
    "embedrt bulk int8": Engine("embedrt_bulk", dtype="int8", against="encode_iter int8"),
    "Ray Data, embedrt": Engine("ray_embedrt", ("ray",), few=True),
    "Daft, embedrt": Engine("daft_embedrt", ("daft",), few=True),
    REFERENCE: Engine("ray_data", ("ray", "sentence_transformers"), few=True),
    "Daft embed_text, sentence-transformers": Engine("daft_embed_text", ("daft", "sentence_transformers"), few=True),
    "datasets.map, sentence-transformers": Engine("datasets_map", ("datasets", "sentence_transformers"), few=True),
}


@dataclass
class Measured:
    """The measurements of one engine.

    Attributes:
        rows: The rows that it encodes.
        error: The reason of a failure, or None.
        seconds: By round.
        peak_rss_mb: By round.
        second_half_rss_mb: The peak after half the time, by round.
        max_error: Largest absolute difference to the reference vectors; None where no vectors are written.
    """

    rows: int
    error: str | None = None
    seconds: list[float] = field(default_factory=list)
    peak_rss_mb: list[float] = field(default_factory=list)
    second_half_rss_mb: list[float] = field(default_factory=list)
    max_error: float | None = None


def write_source(path: Path, rows: int) -> None:
    """Write the rows: an id, and a text with a number before it."""
    corpus = load_corpus().texts
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), ("body", pa.string())])) as writer:
        for start in range(0, rows, 10_000):
            ids = range(start, min(start + 10_000, rows))
            bodies = [f"{i}: {corpus[i % len(corpus)]}" for i in ids]
            writer.write_table(pa.table({"id": pa.array(ids, pa.int64()), "body": bodies}))


def measure(engine: Engine, options: Mapping[str, str], result: Measured, expected: Mapping[int, Any]) -> None:
    """Run an engine once."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as log:
        given = json.dumps({**options, "target": scratch, "dtype": engine.dtype})
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bulk_engines", engine.run, given],
            cwd=ROOT,
            env={**os.environ, **OFFLINE, "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
        )
        samples: list[tuple[float, float]] = []
        watch = threading.Thread(target=_watch, args=(process, samples))
        watch.start()
        out, _ = process.communicate()
        seconds = time.perf_counter() - begun
        watch.join()
        if process.returncode:
            log.seek(0)
            result.error = log.read().decode(errors="replace").strip()[-500:] or out.decode()
            return
        result.seconds.append(seconds)
        result.peak_rss_mb.append(max(memory for _, memory in samples) / 1e6)
        half = [memory for at, memory in samples if at > begun + seconds / 2]
        result.second_half_rss_mb.append(max(half, default=0.0) / 1e6)
        found = vectors_of(Path(scratch))
        if found:
            result.max_error = max(float(np.abs(found[one] - vector).max()) for one, vector in expected.items())


def _watch(process: subprocess.Popen[bytes], samples: list[tuple[float, float]]) -> None:
    while process.poll() is None:
        samples.append((time.perf_counter(), tree_memory(process.pid)))
        time.sleep(_WAIT_SECONDS)


def tree_memory(pid: int) -> float:
    """The memory of a process and all below it in bytes, each shared page once."""
    total = 0.0
    for one in _tree(pid):
        try:
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:  # it ended
            continue
    return total


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def as_record(found: Mapping[str, Measured]) -> dict[str, Any]:
    """The results as plain data."""
    return {
        name: {
            "dtype": ENGINES[name].dtype,
            "rows": result.rows,
            "error": result.error,
            "seconds_s": spread(result.seconds),
            "rows_per_s": spread(_rates(result)),
            "against": ENGINES[name].against,
            "ratio": _ratio(result, found.get(ENGINES[name].against)),
            "peak_rss_mb": max(result.peak_rss_mb, default=None),
            "second_half_rss_mb": max(result.second_half_rss_mb, default=None),
            "max_error": result.max_error,
        }
        for name, result in found.items()
    }


def _ratio(result: Measured, reference: Measured | None) -> dict[str, float] | None:
    if reference is None or reference is result or reference.error or result.error:
        return None
    return spread([own / theirs for own, theirs in zip(_rates(result), _rates(reference), strict=True)])


def _rates(result: Measured) -> list[float]:
    return [result.rows / seconds for seconds in result.seconds]


def verdicts(engines: Mapping[str, Any]) -> Iterator[Verdict]:
    """The targets, line by line."""
    for dtype in ("", " int8"):
        bulk, alone = engines.get(f"embedrt bulk{dtype}"), engines.get(f"encode_iter{dtype}")
        ratio = bulk["ratio"]["median"] if bulk and bulk["ratio"] else None
        yield at_least(f"embedrt bulk{dtype or ' float32'}, speed to encode_iter", 0.95, ratio)
        over = None
        if bulk and alone and bulk["peak_rss_mb"] and alone["peak_rss_mb"]:
            over = bulk["peak_rss_mb"] - alone["peak_rss_mb"]
        yield at_most(f"embedrt bulk{dtype or ' float32'}, peak memory over encode_iter in MB", 200, over, digits=0)


def bulk_tables(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each machine: a table of engines, and the targets."""
    for record in records:
        yield from heading("Bulk jobs", record)
        yield f"- Texts: {record['rows']} rows of {record['corpus']}, Parquet to Parquet"
        yield f"- Engines in turn, rounds: {record['rounds']}"
        yield "- Peak memory is that of all processes of an engine"
        yield ""
        yield f"| {' | '.join(_COLUMNS)} |"
        yield "|---" * len(_COLUMNS) + "|"
        for name, engine in record["engines"].items():
            yield _row(name, engine)
        yield ""
        yield from target_table(record["targets"])
        yield ""


def _row(name: str, engine: Mapping[str, Any]) -> str:
    if engine["error"]:
        reason = " ".join(engine["error"].split()).replace("|", "\\|")[-120:]
        return f"| {name} | {engine['dtype']} | {engine['rows']:,} | failed: {reason} |" + " |" * 5
    ratio, error = engine["ratio"], engine["max_error"]
    cells = [
        name,
        engine["dtype"],
        f"{engine['rows']:,}",
        f"{engine['rows_per_s']['median']:.1f}",
        f"{ratio['median']:.2f}x" if ratio else _NONE,
        engine["against"] if ratio else _NONE,
        f"{engine['peak_rss_mb']:.0f}",
        f"{engine['second_half_rss_mb']:.0f}",
        _NONE if error is None else f"{error:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print the table, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the bundle and the rows, used again if it has them")
    parser.add_argument("--output", type=Path, help="folder for the results file")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--few", type=int, default=8_000, help="rows of the engines that would take an hour")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", help="names with ';' between them; all that are installed otherwise")
    options = parser.parse_args()
    wanted = options.engines.split(";") if options.engines else list(ENGINES)
    with tempfile.TemporaryDirectory() as scratch:
        kept = options.keep or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        bundle, model = kept / "bundle", packaged()
        if not bundle.is_dir():
            export(str(model), ["float32", "int8"], bundle, offline=True)
        sources = {rows: kept / f"rows-{rows}.parquet" for rows in (options.rows, options.few)}
        for rows, source in sources.items():
            if not source.is_file():
                write_source(source, rows)
        expected = {rows: reference_vectors(source, bundle) for rows, source in sources.items()}
        found = {
            name: Measured(options.few if ENGINES[name].few else options.rows)
            for name in wanted
            if all(map(find_spec, ENGINES[name].packages))
        }
        for _ in range(options.rounds):
            for name, result in found.items():
                if result.error is None:
                    paths = {"bundle": str(bundle.resolve()), "model": str(model), "source": str(sources[result.rows])}
                    measure(ENGINES[name], paths, result, expected[result.rows])
                    print(name, result, file=sys.stderr)
    command = ["python", "-m", "benchmarks.bulk", "--rows", str(options.rows), "--few", str(options.few)]
    record = circumstances(KIND, [*command, "--rounds", str(options.rounds)])
    engines = as_record(found)
    record |= {
        "versions": {**record["versions"], **_versions()},
        "rows": options.rows,
        "rounds": options.rounds,
        "units": UNITS,
        "engines": engines,
        "targets": [asdict(row) for row in verdicts(engines)],
    }
    print("\n".join(bulk_tables([{**record, "file": "(not written)"}])))
    if options.output is not None:
        write(record, options.output)


def reference_vectors(source: Path, bundle: Path) -> dict[int, Any]:
    """Vectors of some rows by id."""
    from embedrt import Embedder

    rows = pq.read_table(source)
    some = rows.take(np.linspace(0, len(rows) - 1, min(_COMPARED, len(rows))).astype(int))
    vectors = Embedder(bundle, device="cpu", dtype="float32").encode(some["body"].to_pylist())
    return dict(zip(some["id"].to_pylist(), vectors, strict=True))


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("pyarrow", "ray", "daft", "datasets", "torch", "sentence-transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()

"""Rerankers and sparse encoders against the peers: speed, memory and accuracy on the same texts, engines in turn.

    python -m benchmarks.tasks --keep DIR --output benchmarks/results     # `make bench-tasks`

Each engine has a process of its own. A turn of the reranker scores one query with 100 documents of about 150 tokens; a
turn of the sparse encoder encodes documents of that length. The models have the shape and the body of
all-MiniLM-L6-v2: the reranker has the head and the low-rank updates of `examples/reranker`, the sparse encoder a
language model's head with seeded weights.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import FOLDOC, dictionary, load_corpus
from benchmarks.models import packaged
from benchmarks.record import circumstances, heading, one_line, write
from benchmarks.repository import ROOT
from benchmarks.retrieval import search
from benchmarks.targets import Verdict, at_least, at_most, target_table
from embedrt.bench.model import export
from embedrt.bench.process import Worker, WorkerError
from embedrt.bench.record import spread
from embedrt.inputs.text import read_tokenizer

KIND = "tasks"
_SEED = 0
_TOKENS = (140, 160)  # of a document, special tokens included
_DOCUMENTS = 100
_SPARSE_DOCUMENTS = 200
REFERENCE = "sentence-transformers"
UNITS = {
    "*_s": "seconds of a turn: median, lowest and highest round",
    "ratio": "speed relative to sentence-transformers in the same round: median, lowest and highest round",
    "peak_rss_mb": "most memory resident at once, in 10^6 bytes",
    "max_error": "largest absolute difference of a score before the activation, or of a weight",
    "same_order": "share of pairs of documents in the same order, mean over the queries",
    "same_first": "share of queries with the same first document",
}
_NONE = "-"


@dataclass(frozen=True)
class Engine:
    """An engine that is measured.

    Attributes:
        load: The name in `benchmarks.task_engines.LOADERS`.
        package: The package that it needs, as it is imported.
        dtype: The dtype of the model.
        options: More arguments of the loader.
    """

    load: str
    package: str
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)


RERANKERS = {
    "embedrt": Engine("rerank_embedrt", "embedrt"),
    "embedrt int8": Engine("rerank_embedrt", "embedrt", "int8", {"dtype": "int8"}),
    REFERENCE: Engine("rerank_sentence_transformers", "sentence_transformers"),
    "fastembed": Engine("rerank_fastembed", "fastembed"),
    "onnxruntime by hand": Engine("rerank_by_hand", "onnxruntime"),
}
SPARSE = {
    "embedrt": Engine("sparse_embedrt", "embedrt"),
    REFERENCE: Engine("sparse_sentence_transformers", "sentence_transformers"),
}


@dataclass
class Measured:
    """What was measured of one engine.

    Attributes:
        error: The reason of a failure, or None.
        seconds: By round.
        peak_rss_mb: At the end; None where it is not known.
        values: Scores or weights by round, as float32.
    """

    error: str | None = None
    seconds: list[float] = field(default_factory=list)
    peak_rss_mb: float | None = None
    values: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """One task on the same texts for all engines.

    Attributes:
        engines: By name.
        model: The model folder.
        bundle: The bundle of the same model.
        turns: What the engines get in each round; the first turn is a warm-up.
    """

    engines: Mapping[str, Engine]
    model: Path
    bundle: Path
    turns: Sequence[dict[str, Any]]


def measure(job: Job) -> dict[str, Measured]:
    """Measure the engines that are installed, in turn."""
    found: dict[str, Measured] = {}
    workers: dict[str, Worker] = {}
    for name, engine in job.engines.items():
        if find_spec(engine.package) is not None:
            options = {"model": str(job.model), "bundle": str(job.bundle), **engine.options}
            command = ("-m", "benchmarks.task_engines", engine.load, json.dumps(options))
            found[name], workers[name] = Measured(), Worker(sys.executable, *command, folder=ROOT)
    try:
        for number, turn in enumerate(job.turns):
            for name, result in found.items():
                if result.error is None:
                    try:
                        _turn(workers[name], turn, result, counts=number > 0)
                    except WorkerError as error:
                        result.error = str(error)
    finally:
        for worker in workers.values():
            worker.close()
    return found


def _turn(worker: Worker, turn: dict[str, Any], result: Measured, *, counts: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "values.npy"
        answer = worker.ask("run", save=str(path), **turn)
        if counts:
            result.seconds.append(answer["seconds"])
            result.values.append(np.load(path))
            result.peak_rss_mb = answer["peak_rss_mb"]


def as_record(found: Mapping[str, Measured], job: Job) -> dict[str, Any]:
    """The results of one task as plain data."""
    reference = found.get(REFERENCE)
    return {
        name: {
            "dtype": job.engines[name].dtype,
            "error": result.error,
            "seconds_s": spread(result.seconds),
            "ratio": _ratio(result, reference),
            "peak_rss_mb": None if result.peak_rss_mb is None else round(result.peak_rss_mb),
            **_accuracy(result, reference),
        }
        for name, result in found.items()
    }


def _ratio(result: Measured, reference: Measured | None) -> dict[str, float] | None:
    if reference is None or reference.error or result.error:
        return None
    return spread([theirs / own for own, theirs in zip(result.seconds, reference.seconds, strict=True)])


def _accuracy(result: Measured, reference: Measured | None) -> dict[str, float | None]:
    if reference is None or reference.error or result.error:
        return {"max_error": None, "same_order": None, "same_first": None}
    pairs = list(zip(result.values, reference.values, strict=True))
    error = max(float(np.abs(own - theirs).max()) for own, theirs in pairs)
    if pairs[0][0].ndim != 1:
        return {"max_error": error, "same_order": None, "same_first": None}
    return {
        "max_error": error,
        "same_order": float(np.mean([same_order(own, theirs) for own, theirs in pairs])),
        "same_first": float(np.mean([own.argmax() == theirs.argmax() for own, theirs in pairs])),
    }


def same_order(scores: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Share of all pairs of documents that two lists of scores put in the same order; Kendall's tau is `2 x - 1`."""
    first, second = np.triu_indices(len(scores), 1)
    agree = np.sign(scores[first] - scores[second]) == np.sign(others[first] - others[second])
    return float(agree.mean()) if len(agree) else 1.0


def verdicts(rerank: Mapping[str, Any], sparse: Mapping[str, Any]) -> Iterator[Verdict]:
    """The targets, line by line."""
    yield at_least("reranking in float32, speed to sentence-transformers", 2.0, _median(rerank, "embedrt"))
    yield at_least("reranking in int8, speed to sentence-transformers", 5.0, _median(rerank, "embedrt int8"))
    yield at_most("reranking in float32, max error of a score", 1e-5, rerank.get("embedrt", {}).get("max_error"))
    yield at_least("sparse encoding in float32, speed to sentence-transformers", 2.0, _median(sparse, "embedrt"))
    yield at_most("sparse encoding, peak memory in MB", 500, sparse.get("embedrt", {}).get("peak_rss_mb"))


def _median(found: Mapping[str, Any], name: str) -> float | None:
    ratio = found.get(name, {}).get("ratio")
    return None if ratio is None else float(ratio["median"])


def documents(tokenizer: Path, count: int) -> list[str]:
    """Texts of the corpus with about 150 tokens; where there are too few, joined ones that are cut at words."""
    tokenize = read_tokenizer(tokenizer)
    tokenize.no_truncation()
    tokenize.no_padding()
    found: list[str] = []
    stream = " ".join(" ".join(load_corpus().texts).split()).split(" ")
    start = 0
    while len(found) < count and start < len(stream):
        words = stream[start : start + 130]
        start += 130
        while words and len(tokenize.encode(" ".join(words)).ids) > _TOKENS[1]:
            words = words[:-3]
        if len(tokenize.encode(" ".join(words)).ids) >= _TOKENS[0]:
            found.append(" ".join(words))
    return found


def queries(count: int) -> list[str]:
    """Headwords of the dictionary, or words of the texts where it is not installed."""
    if FOLDOC.is_file():
        return search(list(dictionary(FOLDOC)), count, _SEED).queries[:count]
    return [" ".join(text.split()[:6]) for text in load_corpus().texts[:count]]


def jobs(kept: Path, rounds: int) -> dict[str, Job]:
    """Make models and bundles, unless they are there, and draw the texts."""
    made = {}
    for name, engines, dtypes in (("rerank", RERANKERS, ["float32", "int8"]), ("sparse", SPARSE, ["float32"])):
        model, bundle = kept / name, kept / f"{name}-bundle"
        if not (model / "model.safetensors").is_file():
            # In another process, whose memory this one should not hold.
            subprocess.run(
                [sys.executable, "-m", "benchmarks.task_models", name, str(packaged()), str(model)],
                cwd=ROOT,
                check=True,
            )
        if not bundle.is_dir():
            export(str(model), dtypes, bundle, offline=True, task={"rerank": "score", "sparse": "sparse"}[name])
        turns: list[dict[str, Any]]
        if name == "rerank":
            texts = documents(bundle / "tokenizer.json", _DOCUMENTS)
            turns = [{"query": query, "documents": texts} for query in queries(rounds + 1)]
            mixed = random.Random(_SEED).sample(load_corpus().texts, _DOCUMENTS)
            made["mixed"] = Job(engines, model, bundle, [{**turn, "documents": mixed} for turn in turns])
        else:
            texts = documents(bundle / "tokenizer.json", _SPARSE_DOCUMENTS * (rounds + 1))
            size = len(texts) // (rounds + 1)
            turns = [{"documents": texts[i * size : (i + 1) * size]} for i in range(rounds + 1)]
        made[name] = Job(engines, model, bundle, turns)
    return made


def task_tables(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each machine: a table of rerankers, one of sparse encoders, and the targets."""
    for record in records:
        yield from heading("Rerank and sparse", record)
        yield f"- Texts: {record['corpus']}; {record['rounds']} rounds in turn"
        yield ""
        for name, documents in (("rerank", "of 150 tokens"), ("mixed", "of all lengths")):
            yield (
                f"| reranker, {_DOCUMENTS} documents {documents} | dtype | seconds | speed | max error | same order "
                "| same first | peak memory, MB |"
            )
            yield "|---|---|---|---|---|---|---|---|"
            yield from _rows(record[name], ("max_error", "same_order", "same_first", "peak_rss_mb"))
            yield ""
        count = record["sparse_documents"]
        head = f"sparse encoder, {count} documents of 150 tokens"
        yield f"| {head} | dtype | seconds | speed | max error | peak memory, MB |"
        yield "|---|---|---|---|---|---|"
        yield from _rows(record["sparse"], ("max_error", "peak_rss_mb"))
        yield ""
        yield from target_table(record["targets"])
        yield ""


_FORMS = {"max_error": "{:.1e}", "same_order": "{:.4f}", "same_first": "{:.2f}", "peak_rss_mb": "{:.0f}"}


def _rows(engines: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    for name, engine in engines.items():
        if engine["error"]:
            yield f"| {name} | {engine['dtype']} | failed: {one_line(engine['error'])} |" + " |" * (len(columns) + 1)
            continue
        ratio = engine["ratio"]
        cells = [
            name,
            engine["dtype"],
            f"{engine['seconds_s']['median']:.3f}",
            f"{ratio['median']:.2f}x" if ratio else _NONE,
            *(_NONE if engine[key] is None else _FORMS[key].format(engine[key]) for key in columns),
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure both tasks, print them, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for models and bundles, used again if it has them")
    parser.add_argument("--output", type=Path, help="folder for the results file")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept = options.keep or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        todo = jobs(kept, options.rounds)
        found = {name: as_record(measure(job), job) for name, job in todo.items()}
    record = {
        **circumstances(KIND, ["python", "-m", "benchmarks.tasks", "--rounds", str(options.rounds)]),
        "rounds": options.rounds,
        "sparse_documents": len(todo["sparse"].turns[0]["documents"]),
        "units": UNITS,
        **found,
        "targets": [asdict(row) for row in verdicts(found["rerank"], found["sparse"])],
    }
    print("\n".join(task_tables([{**record, "file": "(not written)"}])))
    if options.output is not None:
        write(record, options.output)


if __name__ == "__main__":
    main()

"""Compare embedrt with other libraries for sentence embeddings, on the same texts and weights, in one run.

    make bench                                   # makes the environment; about half an hour on 2 cores
    make bench ARGS="--texts 200 --engines sentence-transformers embedrt --long-text 0"
    make bench ARGS="--model base --output base.json"  # 12 layers, 768 wide, random weights
    make bench ARGS="--engines all --soak 20000"

`make bench` writes `benchmarks/results/DATE-MACHINE.json` and renders the README row, docs/measured.md and
docs/speed.svg from the newest file of each machine.

The measurements are those of `embedrt bench`: throughput on short texts (8 to 16 tokens), mixed texts (dictionary
entries) and long texts (at least 256 tokens, of which every engine reads 256); latency of one short text; cold start;
peak memory; throughput with 1, 2, 4, ... cores. Measured here on top of them:

- Search: headwords of dictionary entries are queries, the entries without them documents; nDCG@10, and the difference
  to sentence-transformers in points of 100. Left out for peers whose vectors are equal to 1e-5.
- The rate at which ONNX Runtime multiplies float32 matrices of the model's shapes, in every round of the mixed texts:
  the limit of the machine. The share that embedrt reaches counts the arithmetic for the tokens of the texts, without
  padding; see `models.Shape.flops`.
- A stream of texts of mixed lengths through `encode_iter`, in a process of its own: peak memory.
- One text of 8,192 tokens through a model of another shape; see `long_text`.

The targets come last, each with the value reached and a verdict. Displayed numbers are rounded down, the verdict uses
the measured value.

Each engine has a process of its own for the whole comparison. They take turns in every round; one works at a time. A
turn of up to 15 seconds during which other programs used more than a twentieth of the machine is repeated, `--retries`
times at most, and the least disturbed try counts. This is known on Linux only; elsewhere no turn counts as disturbed.

Memory is in MB of 10^6 bytes and includes mapped files. The exit status is 1 if an installed engine fails. Engines that
would take most of the time run only if they are named: larger batches of libraries that do not sort by length;
fastembed's default also needs 9 GB of memory. The ONNX backend of sentence-transformers cannot share the environment;
`make .venv-bench-onnx/.ready` makes one for it, and the next `make bench` includes it.
"""

import argparse
import contextlib
import hashlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks import long_text
from benchmarks.corpus import FOLDOC, dictionary, load_corpus
from benchmarks.gemm import SECONDS, Gemm
from benchmarks.long_text import LongText
from benchmarks.models import MODELS, Shape, model_folder, read_shape
from benchmarks.repository import ROOT, commit
from benchmarks.retrieval import SAME, Search, ndcg_at_10, search
from benchmarks.targets import Measured, Verdict, verdict_lines, verdicts
from embedrt.bench.engines import OWN_INT8, PEERS, REFERENCE, Engine, Subject, obstacle, own_engines, role
from embedrt.bench.environment import load_average
from embedrt.bench.measure import Measurement, Plan, core_counts, turns_of
from embedrt.bench.model import export
from embedrt.bench.peers import Files
from embedrt.bench.process import Worker, prepare
from embedrt.bench.record import file_name, record, spread
from embedrt.bench.results import Result, never_quiet
from embedrt.bench.run import circumstances, max_seq_length, token_counter
from embedrt.bench.table import lines
from embedrt.bench.texts import workloads
from embedrt.bundle.manifest import read_manifest
from embedrt.engine.machine import available_threads

OWN_ENGINES: dict[str, Engine] = {
    **own_engines(["cpu"], ["float32", "int8"]),
    **own_engines(["openvino"], ["float32", "bfloat16"]),
}
ENGINES: dict[str, Engine] = {**PEERS, **OWN_ENGINES}


def main() -> int:
    """Runs the comparison; returns the exit status."""
    parser = _parser()
    options = parser.parse_args()
    trained = options.model == "minilm"
    with tempfile.TemporaryDirectory(prefix="embedrt-bench-") as temporary:
        scratch = Path(temporary)
        kept: Path = (options.keep or scratch).resolve()
        model = model_folder(options.model, kept)
        bundle, refused = scratch / "bundle", dict[str, str]()
        if options.bundle:
            bundle = options.bundle.resolve()
        else:
            refused = export(str(model), None, bundle, name=MODELS[options.model].name, offline=True)
        subject = Subject(MODELS[options.model].name, read_manifest(bundle), model)
        engines, left_out = _engines(parser, options, subject)
        files = Files(model, bundle, kept / f"{options.model}-{_fingerprint(model, bundle)}")
        failed = prepare(engines, files)
        corpus = load_corpus()
        count_tokens, limit = token_counter(bundle, subject), max_seq_length(subject)
        texts = workloads(corpus.texts, count_tokens, mixed=options.texts, seed=options.seed)
        command = " ".join(["python -m benchmarks.compare", *sys.argv[1:]])
        about = circumstances(command, MODELS[options.model].title, corpus.origin, texts, count_tokens, limit)
        about |= {"commit": commit(), "note": options.note, "left_out": {**refused, **left_out}}
        about["machine"]["name"] = options.machine or about["machine"]["name"]
        about["machine"]["title"] = options.title or about["machine"]["title"]
        looked_for = _search(options) if trained else None
        plan = Plan(
            texts,
            rounds=options.rounds,
            retries=options.retries,
            cores=core_counts(available_threads()) if options.scaling else (),
            scaling=options.scaling,
            soak=options.soak,
        )
        shape = read_shape(model)
        with tqdm(total=turns_of(plan, engines) + len(engines) * bool(looked_for), unit="turn") as bar:
            measurement = Measurement(engines, failed, files, plan, scratch, bar)
            gemm, ndcg = _measure(measurement, shape, looked_for)
        on_long = long_text.measure(kept, options.long_text) if options.long_text else {}
    results = measurement.results
    lengths = [min(limit or count, count) for count in map(count_tokens, texts["mixed"])]
    sets = about["machine"]["instruction_sets"]
    judged = list(verdicts(Measured(results, ndcg, gemm, shape, lengths, on_long, sets, trained)))
    about["load_average_after"] = load_average()
    about["search"] = looked_for and {"queries": len(looked_for.queries), "documents": len(looked_for.documents)}
    about["gflop_per_mixed_text"] = round(statistics.mean(map(shape.flops, lengths)) / 1e9, 3)
    written = extended(record(about, results), results, ndcg, gemm, on_long, judged)
    if options.output is not None:
        _write(written, options.output)
    print("\n".join([*lines(written), "", *_more_lines(written)]))
    print("\n".join(verdict_lines(judged, never_quiet(results, "mixed"))))
    return 1 if any(engine["error"] for engine in written["engines"].values()) else 0


def extended(
    written: dict[str, Any],
    results: Mapping[str, Result],
    ndcg: Mapping[str, float],
    gemm: Gemm,
    on_long: Mapping[str, LongText],
    judged: list[Verdict],
) -> dict[str, Any]:
    """A record with what is measured here on top of `embedrt bench`.

    Args:
        written: The record.
        results: By engine.
        ndcg: nDCG@10 by engine, in points of 100.
        gemm: The machine's own rate.
        on_long: The text of 8,192 tokens, by engine; empty if it was not measured.
        judged: The verdicts.
    """
    engines = {
        name: {
            **engine,
            "ndcg_at_10": round(ndcg[name], 2) if name in ndcg else None,
            "ndcg_difference": _ndcg_difference(name, results, ndcg),
        }
        for name, engine in written["engines"].items()
    }
    return {
        **written,
        "engines": engines,
        "matmul": {"one_core_gflop_per_s": spread(gemm.one), "all_cores_gflop_per_s": spread(gemm.all)},
        "long_text": long_text.as_record(on_long) if on_long else None,
        "targets": [asdict(row) for row in judged],
    }


def _ndcg_difference(name: str, results: Mapping[str, Result], ndcg: Mapping[str, float]) -> float | None:
    if REFERENCE not in ndcg:
        return None
    if name in ndcg:
        return round(ndcg[name] - ndcg[REFERENCE], 2)
    return 0.0 if _is_same(name, results[name]) and results[name].error is None else None


def _is_same(name: str, result: Result) -> bool:
    """True for a peer whose vectors find the same as the reference's."""
    return role(name) == "peer" and result.max_abs_error is not None and result.max_abs_error <= SAME


def _measure(measurement: Measurement, shape: Shape, looked_for: Search | None) -> tuple[Gemm, dict[str, float]]:
    """Everything that `embedrt bench` measures, the matmul rate, and nDCG@10 by engine."""
    rates, ndcg = Gemm(), dict[str, float]()
    measurement.starts()
    with measurement:
        measurement.latency()
        with contextlib.closing(
            Worker(
                *(sys.executable, "-m", "benchmarks.gemm", str(shape.layers), str(shape.hidden), str(shape.inner)),
                folder=ROOT,
            )
        ) as gemm:

            def multiply(workload: str) -> None:
                if workload == "mixed":
                    rate = measurement.turns.undisturbed(lambda: gemm.ask("gemm", seconds=SECONDS))
                    rates.one.append(rate["one"])
                    rates.all.append(rate["all"])
                    rates.other_cores.append(rate["other_cores"])

            measurement.throughput(multiply)
        if looked_for is not None:
            _retrieve(measurement, looked_for, ndcg)
    measurement.scaling()
    measurement.soak()
    return rates, ndcg


def _retrieve(measurement: Measurement, looked_for: Search, ndcg: dict[str, float]) -> None:
    def find(name: str, result: Result) -> None:
        if not _is_same(name, result):
            queries = measurement.encode(name, "queries", looked_for.queries)
            documents = measurement.encode(name, "documents", looked_for.documents)
            ndcg[name] = 100 * ndcg_at_10(queries, documents, looked_for.relevant)

    measurement.turns.each("search", find)


def _more_lines(written: Mapping[str, Any]) -> Iterator[str]:
    for name, engine in written["engines"].items():
        if engine["ndcg_difference"] is not None:
            yield f"search, {name}: nDCG@10 {engine['ndcg_difference']:+.2f} points to {REFERENCE}"
    one, every = (written["matmul"][f"{cores}_gflop_per_s"] for cores in ("one_core", "all_cores"))
    if one and every:
        yield f"float32 matmuls: {one['median']:.0f} GFLOP/s on one core, {every['median']:.0f} on all"
    if written["long_text"]:
        yield from long_text.lines(written["long_text"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Compare embedrt with its peers on the same texts."
    )
    parser.add_argument("--model", choices=MODELS, default="minilm", help="which model (default: minilm)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle of that model (default: export one)")
    parser.add_argument(
        "--texts", type=_positive, default=400, metavar="N", help="short and mixed texts; a quarter of it long ones"
    )
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N", help="how often each engine has its turn")
    parser.add_argument("--retries", type=_natural, default=2, metavar="N", help="how often to repeat a disturbed turn")
    parser.add_argument(
        "--retrieval", type=_natural, default=2000, metavar="N", help="entries that are searched; 0: no search"
    )
    parser.add_argument(
        "--scaling", type=_natural, default=200, metavar="N", help="mixed texts with 1, 2, 4, ... cores; 0: none"
    )
    parser.add_argument("--soak", type=_natural, default=4000, metavar="N", help="texts of the stream; 0: no stream")
    parser.add_argument(
        "--long-text", type=_natural, default=2, metavar="N", help="rounds of the text of 8,192 tokens; 0: none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of texts")
    parser.add_argument(
        "--engines", nargs="+", choices=["all", *ENGINES], metavar="NAME", help="which, or all (default: but slow ones)"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what is made for the peers, for the next run")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="write the results: a .json file, or a folder for DATE-MACHINE.json"
    )
    parser.add_argument("--machine", metavar="NAME", help="machine name in the file (default: from the CPU)")
    parser.add_argument("--title", help="machine name in the docs (default: from the CPU and its instruction sets)")
    parser.add_argument("--note", help="remark that the docs show with the results")
    return parser


def _engines(
    parser: argparse.ArgumentParser, options: argparse.Namespace, subject: Subject
) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that run, and why others are left out."""
    wanted: list[str] = options.engines or [
        name
        for name, engine in ENGINES.items()
        if not engine.slow or (name == "model2vec" and options.model == "minilm")
    ]
    wanted = [name for name in ENGINES if name in wanted or "all" in wanted]
    obstacles = {name: _obstacle(name, subject) for name in wanted}
    if options.engines and (unable := [name for name, why in obstacles.items() if why and name in options.engines]):
        parser.error(f"--engines {unable[0]}: {obstacles[unable[0]]}")
    return (
        {name: ENGINES[name] for name, why in obstacles.items() if why is None},
        {name: why for name, why in obstacles.items() if why is not None},
    )


def _obstacle(name: str, subject: Subject) -> str | None:
    if name == OWN_INT8 and "int8" not in subject.manifest.dtypes:
        return "the bundle has no int8"
    if "openvino" in name and role(name) == "own" and find_spec("onnxruntime_ep_openvino") is None:
        return "not installed: `pip install onnxruntime-ep-openvino` adds it"
    return obstacle(ENGINES[name], subject)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def _natural(text: str) -> int:
    return _positive(text) if text != "0" else 0


def _search(options: argparse.Namespace) -> Search | None:
    """None where the dictionary is not installed, as other texts have no headwords."""
    if not options.retrieval or not FOLDOC.is_file():
        return None
    return search(list(dictionary(FOLDOC)), options.retrieval, options.seed)


def _fingerprint(model: Path, bundle: Path) -> str:
    """Changes with the weights and with the graph: what is kept for the peers was made of these."""
    found = hashlib.sha256()
    for path in (model / "model.safetensors", bundle / "onnx" / "model.onnx"):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _write(written: dict[str, Any], output: Path) -> None:
    """Write the results; into a folder under the day and the machine's name."""
    if output.suffix != ".json":
        output /= file_name(written["date"], written["machine"]["name"])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"written: {output}")


if __name__ == "__main__":
    sys.exit(main())

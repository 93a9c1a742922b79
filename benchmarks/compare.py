"""Compare embedrt with other libraries for sentence embeddings, on the same texts and weights, in one run.

    make bench                                   # makes the environment; about 20 minutes on 2 cores
    make bench ARGS="--texts 200 --engines sentence-transformers embedrt"
    make bench ARGS="--model base --output base.json"  # 12 layers, 768 wide, random weights
    make bench ARGS="--engines all --soak 20000"

`make bench` writes `benchmarks/results/DATE-MACHINE.json` and renders the README row, docs/measured.md and
docs/speed.svg from the newest file of each machine.

Measured for every engine that is installed:

- Throughput on short texts (8 to 16 tokens), mixed texts (dictionary entries) and long texts (at least 256 tokens, of
  which every engine reads 256): median, minimum and maximum over the rounds.
- The ratio to sentence-transformers in the same round, over the rounds in which neither engine was disturbed by other
  programs, and the number of those rounds; if there are none, over all rounds.
- Beside each speed: CPU time per text; peak memory of the process so far (short, then mixed, then long); cosine
  similarity and max absolute error against sentence-transformers in float32.
- Latency of one short text: p50 and p99 of 300 calls.
- Cold start: a fresh process imports, loads and encodes one text; wall seconds, with files cached.
- Search: headwords of dictionary entries are queries, the entries without them documents; nDCG@10, and the difference
  to sentence-transformers in points of 100. Left out for peers whose vectors are equal to 1e-5.
- One core against all, for some engines: processes bound to that many cores, mixed texts. Linux only.
- The rate at which ONNX Runtime multiplies float32 matrices of the model's shapes, in every round of the mixed texts:
  the limit of the machine. The share that embedrt reaches counts the arithmetic for the tokens of the texts, without
  padding; see `models.Shape.flops`.
- A stream of texts of mixed lengths through `encode_iter`, in a process of its own: peak memory.

The targets come last, each with the value reached and a verdict. "Fast" is embedrt's fastest engine on mixed texts with
sufficient quality (`targets.MEAN_COSINE` and below). Displayed numbers are rounded down, the verdict uses the measured
value.

Each engine has a process of its own for the whole comparison. They take turns in every round; one works at a time. A
turn of up to 15 seconds during which other programs used more than a twentieth of the machine is repeated, `--retries`
times at most, and the least disturbed try counts. The column "others" has the cores that other programs used in the
worst round. This is known on Linux only; elsewhere no turn counts as disturbed.

Memory is in MB of 10^6 bytes and includes mapped files. The exit status is 1 if an installed engine fails. Engines that
would take most of the time run only if they are named: larger batches of libraries that do not sort by length;
fastembed's default also needs 9 GB of memory. The ONNX backend of sentence-transformers cannot share the environment;
`make .venv-bench-onnx/.ready` makes one for it, and the next `make bench` includes it.
"""

import argparse
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.corpus import FOLDOC, dictionary, load_corpus, workloads
from benchmarks.engines import ENGINES
from benchmarks.environment import commit, load_average, machine, versions
from benchmarks.measure import Measurement, Plan
from benchmarks.models import MODELS, model_folder, read_shape
from benchmarks.peers import Files
from benchmarks.prepare import prepare
from benchmarks.record import file_name, machine_name, machine_title, record
from benchmarks.report import tables, target_table
from benchmarks.results import never_quiet
from benchmarks.retrieval import Search, search
from benchmarks.targets import verdicts


def main() -> int:
    """Runs the comparison; returns the exit status."""
    parser = _parser()
    options = parser.parse_args()
    names = _engines(parser, options)
    installed = [name for name in names if ENGINES[name].version is not None]
    missing = [name for name in names if name not in installed]
    trained = options.model == "minilm"
    with tempfile.TemporaryDirectory(prefix="embedrt-bench-") as temporary:
        scratch = Path(temporary)
        kept: Path = (options.keep or scratch).resolve()
        model = model_folder(options.model, kept)
        bundle, refused = (options.bundle, None) if options.bundle else _export(model, scratch / "bundle", installed)
        files = Files(model, bundle.resolve(), kept / f"{options.model}-{_fingerprint(model, bundle)}")
        failed = prepare(installed, files)
        corpus = load_corpus()
        count_tokens = _token_counter(model)
        texts = workloads(corpus.texts, count_tokens, mixed=options.texts, seed=options.seed)
        about: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(["python -m benchmarks.compare", *sys.argv[1:]]),
            "commit": commit(),
            "note": options.note,
            "machine": _machine(options),
            "versions": versions(),
            "model": MODELS[options.model],
            "corpus": corpus.origin,
            "workloads": {name: _lengths([count_tokens(text) for text in some]) for name, some in texts.items()},
            "load_average_before": load_average(),
        }
        looked_for = _search(options) if trained else None
        plan = Plan(
            texts,
            looked_for,
            rounds=options.rounds,
            retries=options.retries,
            scaling=options.scaling,
            soak=options.soak,
            shape=read_shape(model),
        )
        results, gemm = Measurement(installed, failed, files, plan, scratch).run()
    limit = json.loads((model / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    lengths = [min(limit, count_tokens(text)) for text in texts["mixed"]]
    judged = list(verdicts(results, gemm, plan.shape, lengths, trained=trained))
    about["load_average_after"] = load_average()
    about["search"] = looked_for and {"queries": len(looked_for.queries), "documents": len(looked_for.documents)}
    about["not_installed"] = missing
    about["export_refused"] = refused
    about["gflop_per_mixed_text"] = round(statistics.mean(map(plan.shape.flops, lengths)) / 1e9, 3)
    written = record(about, results, gemm, judged)
    if options.output is not None:
        _write(written, options.output)
    targets = target_table(judged, never_quiet(results))
    print("\n".join([*_head(about), "", *tables(results, gemm, missing), "", *targets]))
    return 1 if any(result.error for result in results.values()) else 0


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
        "--scaling", type=_natural, default=200, metavar="N", help="mixed texts with one core and all; 0: none"
    )
    parser.add_argument("--soak", type=_natural, default=4000, metavar="N", help="texts of the stream; 0: no stream")
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


def _engines(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    able = [name for name, engine in ENGINES.items() if options.model in engine.models]
    if options.engines is None:
        return [name for name in able if not ENGINES[name].slow]
    if "all" in options.engines:
        return able
    names = list(dict.fromkeys(options.engines))
    if unable := [name for name in names if name not in able]:
        parser.error(f"--engines {' '.join(unable)}: cannot run --model {options.model}")
    return names


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def _natural(text: str) -> int:
    return _positive(text) if text != "0" else 0


def _search(options: argparse.Namespace) -> Search | None:
    """None where the dictionary is not installed, as docstrings have no headwords."""
    if not options.retrieval or not FOLDOC.is_file():
        return None
    return search(list(dictionary(FOLDOC)), options.retrieval, options.seed)


def _export(model: Path, folder: Path, engines: list[str]) -> tuple[Path, str | None]:
    """Exports in another process: it may import torch, whose memory this one should not hold meanwhile.

    Returns:
        The bundle, and why it lacks a dtype. Without float32 there is nothing to compare.
    """
    command = [sys.executable, "-m", "embedrt", "export", str(model), "--output", str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    refused = None
    if "embedrt-int8" in engines:
        done = subprocess.run(
            [*command, "--dtype", "float32,int8"], env=environment, capture_output=True, text=True, check=False
        )
        if not done.returncode:
            return folder, None
        refused = f"no int8: {done.stderr.strip()[-500:]}"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the export failed:\n{done.stderr[-2000:]}")
    return folder, refused


def _fingerprint(model: Path, bundle: Path) -> str:
    """Changes with the weights and with the graph: what is kept for the peers was made of these."""
    found = hashlib.sha256()
    for path in (model / "model.safetensors", bundle / "onnx" / "model.onnx"):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _token_counter(model: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def _lengths(tokens: list[int]) -> dict[str, float]:
    """Number of texts and mean tokens per text, truncated at 256 as the engines read them, and whole."""
    return {
        "texts": len(tokens),
        "mean_tokens_256": round(statistics.mean(min(count, 256) for count in tokens), 1),
        "mean_tokens": round(statistics.mean(tokens), 1),
    }


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    found = machine()
    name = options.machine or machine_name(found)
    return {"name": name, "title": options.title or machine_title(found), **found}


def _write(written: dict[str, Any], output: Path) -> None:
    """Write the results; into a folder under the day and the machine's name."""
    if output.suffix != ".json":
        output /= file_name(written["date"], written["machine"]["name"])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"written: {output}")


def _head(about: dict[str, Any]) -> list[str]:
    found = about["machine"]
    packages = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    lines = [
        f"{about['date']}  {about['command']}",
        f"{found['cpu']} ({', '.join(found['instruction_sets'])})",
        f"{found['usable_cores']} of {found['cores']} cores, {found['memory_gb']} GB, {found['system']}",
        f"Python {found['python']}, commit {about['commit']}, {packages}",
        f"load average before {about['load_average_before']}, after {about['load_average_after']}",
        f"model: {about['model']}; {about['gflop_per_mixed_text']:.2f} GFLOP a mixed text",
        f"texts: {about['corpus']}",
        *(
            f"  {name}: {lengths['texts']} texts, mean {lengths['mean_tokens_256']} tokens cut at 256, "
            f"{lengths['mean_tokens']} whole"
            for name, lengths in about["workloads"].items()
        ),
    ]
    if about["search"]:
        lines.append(f"  search: {about['search']['queries']} headwords, {about['search']['documents']} entries")
    if about["export_refused"]:
        lines.append(f"export: {about['export_refused']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())

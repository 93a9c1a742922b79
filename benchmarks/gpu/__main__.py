"""The command; see `benchmarks.gpu`."""

import argparse
import datetime
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.corpus import load_corpus
from benchmarks.gpu.models import MODELS
from benchmarks.gpu.record import gpu_file_name, judge, new_record, target_lines
from benchmarks.gpu.steps import Clock, Measurement, Plan, nvidia_smi, text_file
from benchmarks.repository import commit
from embedrt.bench.environment import load_average, machine, versions

_SHORT = 60  # characters
_QUICK_TEXTS = 60


def main(arguments: list[str] | None = None) -> int:
    """Measure; returns 1 if a step failed."""
    options = _parser().parse_args(arguments)
    card = nvidia_smi("name", "driver_version", "memory.total")
    gpu, driver, memory = card[0] if card else ("none", "none", "none")
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    corpus = load_corpus()
    about: dict[str, Any] = {
        "date": date,
        "command": " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)]),
        "commit": commit(),
        "machine": {**machine(), "gpu": gpu, "driver": driver, "gpu_memory": memory},
        "versions": versions(),
        "device": options.device,
        "dtype": options.dtype or ("float32" if options.device == "cpu" else "float16"),
        "quick": options.quick,
        "corpus": corpus.origin,
        "load_average_before": load_average(),
    }
    record = new_record(about)
    output: Path = options.output
    path = output if output.suffix == ".json" else output / gpu_file_name(date, gpu)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        judge(record)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    clock = Clock(time.monotonic() + 60 * options.minutes, write, record["steps"])
    with tempfile.TemporaryDirectory(prefix="embedrt-gpu-") as scratch:
        texts = text_file(Path(scratch) / "texts.json", _workloads(corpus.texts, is_quick=options.quick))
        plan = Plan(tuple(options.models), options.device, about["dtype"], options.quick, Path(scratch))
        Measurement(plan, clock, record, texts).run()
    write()
    print("\n".join([*target_lines(record["targets"]), f"written: {path}"]))
    return int(any(step["error"] for step in record["steps"]))


def _workloads(texts: list[str], *, is_quick: bool) -> dict[str, list[str]]:
    """Whole entries, and their first characters."""
    drawn = random.Random(0).sample(texts, len(texts))[: _QUICK_TEXTS if is_quick else None]
    return {"mixed": drawn, "short": [text[:_SHORT] for text in drawn]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Compare embedrt with sentence-transformers on one GPU."
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="a .json file, or a folder for DATE-gpu-CARD.json"
    )
    parser.add_argument("--minutes", type=float, default=9.5, metavar="N", help="time for everything")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help="which")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the command")
    parser.add_argument("--dtype", help="default: float16, on a CPU float32")
    parser.add_argument("--quick", action="store_true", help="tiny models and few texts, to try the command")
    return parser


if __name__ == "__main__":
    sys.exit(main())

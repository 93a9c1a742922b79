"""The results file of a run on a GPU, the verdicts on the targets, and the tables for the docs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.gpu.models import MODELS, TRAINED
from benchmarks.targets import Verdict, at_least, at_most, target_table
from embedrt.bench.record import FORMAT

KIND = "gpu"
UNITS = {
    "*_per_s": "texts, tokens or TFLOP per second; where it has several values: median, lowest and highest round",
    "ratio": "throughput relative to sentence-transformers on the same texts in the same round",
    "*_ms": "milliseconds; p50 is the median",
    "*_s": "seconds",
    "memory_mb": "memory in use on each card with both engines loaded, in MiB",
    "*_cosine": "cosine similarity to torch in float32; alone_to_together: of a text alone to the same among others",
    "max_abs_error": "largest absolute difference of a coordinate",
    "percent_by_kind": "percent of the time of all CUDA kernels",
}
_NONE = "-"
# Times sentence-transformers end to end, and times torch's best in the model alone.
_END_TO_END, _LARGE, _DECODER = 10, 1.3, 2.2
_MIXED_PER_S, _TOKENIZER_PERCENT, _QUERY, _MEAN_COSINE = 42000, 80, 0.1, 0.9999


def new_record(about: Mapping[str, Any]) -> dict[str, Any]:
    """An empty record.

    Args:
        about: Machine, versions, command, date and texts.
    """
    return {
        "format": FORMAT,
        "kind": KIND,
        **about,
        "units": UNITS,
        "matmul_tflop_per_s": None,
        "models": {},
        "steps": [],
        "targets": [],
    }


def judge(record: dict[str, Any]) -> None:
    """Write the verdicts of what was measured so far; tiny models have none."""
    record["targets"] = [] if record["quick"] else [asdict(row) for row in gpu_verdicts(record)]


def gpu_verdicts(record: Mapping[str, Any]) -> Iterator[Verdict]:
    """The targets, line by line."""
    models = record["models"]
    mixed = ("end_to_end", "mixed")
    own = _at(models, TRAINED, *mixed, "embedrt_texts_per_s", "median")
    tokenizer = _at(models, TRAINED, "tokenizer", "mixed", "texts_per_s", "median")
    yield at_least(
        "all-MiniLM-L6-v2, mixed texts/s to sentence-transformers at its best batch size",
        _END_TO_END,
        _at(models, TRAINED, *mixed, "ratio", "median"),
    )
    yield at_least("all-MiniLM-L6-v2, mixed texts/s", _MIXED_PER_S, own, digits=0)
    yield at_least(
        "all-MiniLM-L6-v2, mixed texts/s in % of the tokenizer's own", _TOKENIZER_PERCENT, _share(own, tokenizer)
    )
    for name, bound in (("large", _LARGE), ("qwen3", _DECODER)):
        yield at_least(f"{MODELS[name].title}: model alone to torch at its best", bound, _alone_ratio(models, name))
    ours = _at(models, TRAINED, "one_query", "call_p50_ms")
    theirs = _at(models, TRAINED, "one_query", "sentence_transformers_p50_ms")
    yield at_most(
        "all-MiniLM-L6-v2: one query, p50 to sentence-transformers", _QUERY, ours / theirs if ours and theirs else None
    )
    for name in models:
        cosine = _at(models, name, "parity", "mean_cosine")
        yield at_least(f"{models[name]['title']}: mean cosine to float32", _MEAN_COSINE, cosine, digits=6)


def gpu_file_name(date: str, gpu: str) -> str:
    """File name of a run: the day and the card's name."""
    return f"{date[:10]}-gpu-{'-'.join(re.findall(r'[a-z0-9]+', gpu.lower()))}.json"


def gpu_tables(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each card: the circumstances, a table of models and a table of targets."""
    for record in records:
        machine, versions = record["machine"], record["versions"]
        yield f"## {machine['gpu']}"
        yield ""
        cores = f"{machine['usable_cores']} cores"
        yield f"- Machine: {machine['gpu']}, driver {machine['driver']}; {machine['cpu']}, {cores}"
        yield "- Versions: " + ", ".join(f"{package} {version}" for package, version in versions.items())
        yield f"- Measured {record['date'][:10]} with `{record['command']}`; file `benchmarks/results/{record['file']}`"
        yield f"- Texts: {record['corpus']}, read up to 256 tokens; both engines compute in {record['dtype']}"
        if record["matmul_tflop_per_s"]:
            yield f"- Matrix multiplication in torch: {record['matmul_tflop_per_s']['square']:.0f} TFLOP/s"
        if failed := [step for step in record["steps"] if step["error"]]:
            yield f"- Not measured: {', '.join(step['step'] for step in failed)}"
        yield ""
        yield from _models(record)
        yield ""
        yield from target_table(record["targets"])
        yield ""


def _models(record: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "| model | mixed texts/s (ratio) | short texts/s (ratio) | model alone, M tokens/s (torch) | % of matmul rate "
        "| one query p50, ms (sentence-transformers) | mean cosine | min cosine | alone to together, min cosine |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    models = record["models"]
    for name, model in models.items():
        if "error" in model:
            yield f"| {model['title']} | failed: {' '.join(model['error'].split())[-200:]} |" + " |" * 7
            continue
        alone = ("model_alone", "mixed")
        yield " | ".join(
            [
                f"| {model['title']}",
                *(
                    _pair(
                        _at(models, name, "end_to_end", workload, "embedrt_texts_per_s", "median"),
                        _at(models, name, "end_to_end", workload, "ratio", "median"),
                        "{:.0f} ({:.1f}x)",
                    )
                    for workload in ("mixed", "short")
                ),
                _pair(
                    _scaled(_at(models, name, *alone, "embedrt_best_tokens_per_s"), 1e-6),
                    _scaled(_at(models, name, *alone, "torch_best_tokens_per_s"), 1e-6),
                    "{:.3f} ({:.3f})",
                ),
                _shown(matmul_percent(record, name), "{:.0f}"),
                _pair(
                    _at(models, name, "one_query", "call_p50_ms"),
                    _at(models, name, "one_query", "sentence_transformers_p50_ms"),
                    "{:.2f} ({:.2f})",
                ),
                _shown(_at(models, name, "parity", "mean_cosine"), "{:.6f}"),
                _shown(_at(models, name, "parity", "min_cosine"), "{:.6f}"),
                _shown(_at(models, name, "parity", "alone_to_together", "min_cosine"), "{:.6f}") + " |",
            ]
        )


def matmul_percent(record: Mapping[str, Any], name: str) -> float | None:
    """The arithmetic of the model alone in percent of the card's own matmul rate."""
    rate = (record["matmul_tflop_per_s"] or {}).get("square")
    reached = _at(record["models"], name, "model_alone", "mixed", "embedrt_tflop_per_s")
    return _share(reached, rate)


def _alone_ratio(models: Mapping[str, Any], name: str) -> float | None:
    alone = (name, "model_alone", "mixed")
    ours, theirs = (_at(models, *alone, f"{engine}_best_tokens_per_s") for engine in ("embedrt", "torch"))
    return ours / theirs if ours and theirs else None


def _at(content: Mapping[str, Any], *path: str) -> float | None:
    """The number at a path; None if it was not measured."""
    found: Any = content
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return None if found is None else float(found)


def _share(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _shown(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def _pair(first: float | None, second: float | None, form: str) -> str:
    if first is None or second is None:
        return _shown(first, form.split(" (", maxsplit=1)[0])
    return form.format(first, second)


def target_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The verdicts for a terminal."""
    for row in rows:
        verdict = {True: "met", False: "missed", None: _NONE}[row["met"]]
        yield f"{verdict:>6}  {row['target']}: {row['reached']}"

"""Results of one comparison as plain data, in the form of `benchmarks/results/DATE-MACHINE.json`."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from benchmarks.engines import REFERENCE
from benchmarks.results import Gemm, Result, Run, by_round, ratios
from benchmarks.targets import Verdict

FORMAT = 1
# The end of a figure's name is its unit.
UNITS = {
    "*_per_s": "texts (or GFLOP) per second; median, lowest and highest round",
    "ratio": "throughput relative to sentence-transformers in float32 in the same round",
    "rounds": "number of rounds; undisturbed_rounds: those in which other processes used at most 5 % of the machine",
    "*_ms": "milliseconds",
    "*_ms_per_text": "milliseconds of CPU time per text",
    "*_s": "seconds",
    "*_rss_mb": "peak memory (RSS) in MB of 10^6 bytes, mapped files included",
    "other_cores": "cores that other processes used meanwhile",
    "*_cosine": "cosine similarity to sentence-transformers in float32",
    "max_abs_error": "largest absolute difference of a coordinate to sentence-transformers in float32",
    "ndcg_at_10": "points of 100; ndcg_difference: points more than sentence-transformers in float32",
}


def engine(result: Result, reference: Result | None) -> dict[str, Any]:
    """Figures of one engine, with quality and memory beside each speed."""
    return {
        "version": result.version,
        "dtype": result.dtype,
        "settings": result.settings,
        "error": result.error,
        "workloads": {
            name: _workload(run, reference.runs.get(name) if reference is not None else None)
            for name, run in result.runs.items()
            if run.texts_per_second
        },
        "one_text": _one_text(result),
        "cold_start_s": spread(result.start_seconds),
        "cold_start_rss_mb": _rounded(result.loaded_rss_mb),
        "scaling": _scaling(result.by_cores),
        "ndcg_at_10": _rounded(result.ndcg, 2),
        "ndcg_difference": _difference(result, reference),
        "stream": result.soak
        and {
            "texts": result.soak.texts,
            "texts_per_s": _rounded(result.soak.texts / result.soak.seconds),
            "peak_rss_mb": _rounded(result.soak.peak_rss_mb),
        },
        "peak_rss_mb": _rounded(result.peak_rss_mb),
    }


def record(
    about: Mapping[str, Any], results: Mapping[str, Result], gemm: Gemm, verdicts: Iterable[Verdict]
) -> dict[str, Any]:
    """Everything that one run of the comparison measured.

    Args:
        about: Machine, versions, command, date, model and texts.
        results: By engine.
        gemm: Rate of float32 matrix multiplication.
        verdicts: Targets.
    """
    reference = results.get(REFERENCE)
    return {
        "format": FORMAT,
        **about,
        "units": UNITS,
        "matmul": {"one_core_gflop_per_s": spread(gemm.one), "all_cores_gflop_per_s": spread(gemm.all)},
        "engines": {name: engine(result, reference) for name, result in results.items()},
        "targets": [asdict(row) for row in verdicts],
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, lowest and highest value, to four digits; None if there are none."""
    if not values:
        return None
    return {"median": _digits(median(values)), "low": _digits(min(values)), "high": _digits(max(values))}


def file_name(date: str, machine: str) -> str:
    """File name of a run: the day and the machine's name."""
    return f"{date[:10]}-{machine}.json"


def machine_name(machine: Mapping[str, Any]) -> str:
    """Name for files, such as `amd-epyc-9b45-f26m17-2c`, from the CPU, its family and model, and the usable cores."""
    name = "-".join(re.findall(r"[a-z0-9]+", _cpu(machine).lower()))
    family = f"-f{machine['family']}m{machine['model']}" if machine.get("family") else ""
    return f"{name}{family}-{machine['usable_cores']}c"


def machine_title(machine: Mapping[str, Any]) -> str:
    """Title for tables, such as `Intel Xeon with AMX, 2 cores`."""
    known = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
    best = next((f" with {title}" for flag, title in known.items() if flag in machine["instruction_sets"]), "")
    cores = machine["usable_cores"]
    return f"{_cpu(machine)}{best}, {cores} core{'s' * (cores != 1)}"


def _cpu(machine: Mapping[str, Any]) -> str:
    noise = r"\((R|TM)\)|\bprocessor\b|\bcpu\b|@.*|[0-9]+-core"
    return " ".join(re.sub(noise, " ", machine["cpu"], flags=re.IGNORECASE).split()) or "CPU"


def _workload(run: Run, reference: Run | None) -> dict[str, Any]:
    relative, undisturbed = ratios(run, reference) if reference is not None else ([], 0)
    others = [cores for cores in run.other_cores if cores is not None]
    return {
        "texts_per_s": spread(run.texts_per_second),
        "ratio": spread(relative),
        "rounds": len(run.texts_per_second),
        "undisturbed_rounds": undisturbed,
        "cpu_ms_per_text": _digits(median(run.cpu_ms_per_text)),
        "other_cores": round(max(others), 2) if others else None,
        "peak_rss_mb": _rounded(run.peak_rss_mb),
        "min_cosine": _rounded(run.min_cosine, 6),
        "mean_cosine": _rounded(run.mean_cosine, 6),
        "max_abs_error": None if run.max_abs_error is None else _digits(run.max_abs_error, 2),
    }


def _one_text(result: Result) -> dict[str, float] | None:
    if not result.one_text_ms:
        return None
    p50, p99 = np.percentile(np.concatenate(result.one_text_ms), [50, 99])
    return {"p50_ms": _digits(float(p50)), "p99_ms": _digits(float(p99))}


def _scaling(by_cores: Mapping[str, Run]) -> dict[str, Any] | None:
    if len(by_cores) < 2:
        return None
    (few, one), (many, every) = list(by_cores.items())[:2]
    found, _ = by_round(every.texts_per_second, every.other_cores, one.texts_per_second, one.other_cores)
    return {
        "cores": [int(few), int(many)],
        "texts_per_s": [spread(one.texts_per_second), spread(every.texts_per_second)],
        "ratio": spread(found),
    }


def _difference(result: Result, reference: Result | None) -> float | None:
    if result.same_vectors:
        return 0.0
    if reference is None or result.ndcg is None or reference.ndcg is None:
        return None
    return round(result.ndcg - reference.ndcg, 2)


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def _digits(value: float, digits: int = 4) -> float:
    if not value:
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))

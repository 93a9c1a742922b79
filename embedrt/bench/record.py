"""Results of one comparison as plain data, in the form of a results file, `DATE-MACHINE.json`."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from embedrt.bench.engines import OWN_INT8, REFERENCE
from embedrt.bench.measure import reference_of
from embedrt.bench.results import Result, Run, ratios, scaling_ratios

FORMAT = 2
# The end of a figure's name is its unit.
UNITS = {
    "*_per_s": "texts (or GFLOP) per second; median, lowest and highest round",
    "ratio": "throughput relative to the reference in the same round; with several numbers of cores, to the smallest",
    "efficiency": "throughput per core, relative to the smallest number of cores",
    "rounds": "number of rounds; undisturbed_rounds: those in which other processes used at most 5 % of the machine",
    "*_ms": "milliseconds",
    "*_ms_per_text": "milliseconds of CPU time per text",
    "*_s": "seconds",
    "*_rss_mb": "peak memory (RSS) in MB of 10^6 bytes, mapped files included",
    "other_cores": "cores that other processes used meanwhile",
    "*_cosine": "cosine similarity to the reference",
    "max_abs_error": "largest absolute difference of a coordinate to the reference",
    "ndcg_at_10": "points of 100; ndcg_difference: points more than the reference",
}


def record(about: Mapping[str, Any], results: Mapping[str, Result]) -> dict[str, Any]:
    """Everything that one run measured.

    Args:
        about: Machine, versions, command, date, model and texts.
        results: By engine.
    """
    reference = reference_of(results)
    expected = None if reference is None else results[reference]
    return {
        "format": FORMAT,
        **about,
        "reference": reference,
        "units": UNITS,
        "matmul": None,
        "long_text": None,
        "engines": {name: _engine(result, expected) for name, result in results.items()},
        "targets": [],
    }


def read_record(path: Path) -> dict[str, Any]:
    """Read a results file, of this format or of an older one.

    Raises:
        ValueError: It has another format.
    """
    found: dict[str, Any] = json.loads(path.read_bytes())
    if found.get("format") == 1 and found.get("kind") is None:
        return _of_format_1(found)
    if found.get("format") not in {1, FORMAT}:
        raise ValueError(
            f"{path.name}: expected format {FORMAT} or older, found {found.get('format')!r}; measure again with "
            "`embedrt bench`, or install a newer embedrt"
        )
    return found


def _of_format_1(found: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 in the form of this one."""
    for engine in found["engines"].values():
        if (old := engine["scaling"]) is not None:
            few, many = old["cores"]
            engine["scaling"] = [
                _step(few, old["texts_per_s"][0], {"median": 1.0, "low": 1.0, "high": 1.0}, 1.0),
                _step(many, old["texts_per_s"][1], old["ratio"], old["ratio"]["median"] * few / many),
            ]
    left_out = dict.fromkeys(found.pop("not_installed"), "not installed")
    if refused := found.pop("export_refused"):
        left_out[OWN_INT8] = refused
    for some in found["workloads"].values():
        some["mean_tokens_read"] = some.pop("mean_tokens_256")
    new = {"format": FORMAT, "left_out": left_out, "reference": REFERENCE, "long_text": None}
    machine = {"hidden_instruction_sets": [], **found["machine"]}
    return {**found, **new, "machine": machine}


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, lowest and highest value, to four digits; None if there are none."""
    if not values:
        return None
    return {"median": _digits(median(values)), "low": _digits(min(values)), "high": _digits(max(values))}


def file_name(date: str, machine: str) -> str:
    """File name of a run: the day and the machine's name."""
    return f"{date[:10]}-{machine}.json"


# Instruction sets from the fastest kernels to the slowest: what they are called in file names and in titles.
_LEVELS = {
    "amx_int8": ("amx", "AMX"),
    "avx512_vnni": ("avx512-vnni", "AVX-512 VNNI"),
    "avx512f": ("avx512", "AVX-512"),
    "avx_vnni": ("avx-vnni", "AVX-VNNI"),
    "avx2": ("avx2", "AVX2"),
    "i8mm": ("i8mm", "I8MM"),
    "asimddp": ("dotprod", "dot product"),
}


def machine_name(machine: Mapping[str, Any]) -> str:
    """Name for files, such as `amd-epyc-9b45-f26m17-2c`, from the CPU, its family and model, and the usable cores.

    With instruction sets that are hidden from programs, it ends with the best of the others, as in `...-2c-avx2`.
    """
    name = "-".join(re.findall(r"[a-z0-9]+", _cpu(machine).lower()))
    family = f"-f{machine['family']}m{machine['model']}" if machine.get("family") else ""
    level = _level(machine)
    limited = f"-{level[0] if level else 'plain'}" if machine["hidden_instruction_sets"] else ""
    return f"{name}{family}-{machine['usable_cores']}c{limited}"


def machine_title(machine: Mapping[str, Any]) -> str:
    """Title for tables, such as `Intel Xeon with AMX, 2 cores`."""
    level = _level(machine)
    link = "limited to" if machine["hidden_instruction_sets"] else "with"
    best = f" {link} {level[1]}" if level else ""
    cores = machine["usable_cores"]
    return f"{_cpu(machine)}{best}, {cores} core{'s' * (cores != 1)}"


def _level(machine: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((names for flag, names in _LEVELS.items() if flag in machine["instruction_sets"]), None)


def _cpu(machine: Mapping[str, Any]) -> str:
    noise = r"\((R|TM)\)|\bprocessor\b|\bcpu\b|@.*|[0-9]+-core"
    return " ".join(re.sub(noise, " ", machine["cpu"], flags=re.IGNORECASE).split()) or "CPU"


def _engine(result: Result, reference: Result | None) -> dict[str, Any]:
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
        "ndcg_at_10": None,
        "ndcg_difference": None,
        "stream": result.soak
        and {
            "texts": result.soak.texts,
            "texts_per_s": _rounded(result.soak.texts / result.soak.seconds),
            "peak_rss_mb": _rounded(result.soak.peak_rss_mb),
        },
        "peak_rss_mb": _rounded(result.peak_rss_mb),
    }


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


def _scaling(by_cores: Mapping[int, Run]) -> list[dict[str, Any]] | None:
    if len(by_cores) < 2:
        return None
    fewest, found = min(by_cores), scaling_ratios(by_cores)
    return [
        _step(count, spread(run.texts_per_second), spread(found[count]), median(found[count]) * fewest / count)
        for count, run in sorted(by_cores.items())
        if found[count]
    ]


def _step(cores: int, speed: Any, ratio: Any, efficiency: float) -> dict[str, Any]:
    return {"cores": cores, "texts_per_s": speed, "ratio": ratio, "efficiency": round(efficiency, 3)}


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def _digits(value: float, digits: int = 4) -> float:
    if not value:
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))

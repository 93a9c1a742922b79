"""Plausible measurements of engines, and the record of a run that made them."""

import json
from typing import Any

from embedrt.bench.engines import PEERS, own_engines
from embedrt.bench.record import record
from embedrt.bench.results import Result, Run

QUIET, BUSY = 0.0, 64.0
ENGINES = {**PEERS, **own_engines(["cpu", "openvino"], ["float32", "int8", "bfloat16"])}

MACHINE = {
    "name": "some-2c",
    "title": "Some CPU, 2 cores",
    "cpu": "Some CPU",
    "instruction_sets": ["avx2"],
    "hidden_instruction_sets": [],
    "cores": 4,
    "usable_cores": 2,
    "memory_gb": 8.2,
    "system": "Linux 6 x86_64",
    "python": "3.11.9",
}


def run(speed: float, cosine: float = 1.0, error: float = 1e-7, rss: float = 100.0) -> Run:
    """Two quiet rounds of one speed."""
    return Run([speed] * 2, [1.0] * 2, [QUIET] * 2, rss, cosine, cosine, error)


def result(name: str, speed: float, cosine: float = 1.0, p50: float = 1.0) -> Result:
    """Plausible measurements of an engine."""
    return Result(
        "1",
        ENGINES[name].dtype,
        "",
        start_seconds=[0.3],
        one_text_ms=[[p50] * 3],
        one_text_other_cores=[QUIET],
        runs={"mixed": run(speed, cosine)},
    )


def made(results: dict[str, Result], date: str = "2026-11-26T10:00:00+00:00", **changes: Any) -> dict[str, Any]:
    """A record of a run, as it comes back from the file."""
    about = {
        "date": date,
        "command": "embedrt bench",
        "note": None,
        "machine": MACHINE,
        "versions": {"embedrt": "1"},
        "model": "all-MiniLM-L6-v2",
        "corpus": "a dictionary",
        "workloads": {"mixed": {"texts": 400, "mean_tokens_read": 103.2, "mean_tokens": 120.0}},
        "load_average_before": [0.0, 0.0, 0.0],
        "load_average_after": [0.0, 0.0, 0.0],
        "search": None,
        "left_out": {"fastembed-1": "not installed"},
    } | changes
    found: dict[str, Any] = json.loads(json.dumps(record(about, results)))
    return {**found, "file": "f.json"}

"""The comparison from start to end: `embedrt bench`."""

import datetime
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedrt.bench.engines import PEERS, REFERENCE, Engine, Subject, check_peers, choose_peers, own_engines
from embedrt.bench.environment import load_average, machine, versions
from embedrt.bench.measure import Measurement, Plan, core_counts, turns_of
from embedrt.bench.model import describe, find_bundle
from embedrt.bench.peers import Files
from embedrt.bench.process import WorkerError, engine_worker, prepare
from embedrt.bench.record import machine_name, machine_title, record
from embedrt.bench.results import Result
from embedrt.bench.texts import PYTHON_TOPICS, CountTokens, python_passages, sample, workloads
from embedrt.bundle.manifest import Route
from embedrt.engine import Device
from embedrt.engine.devices import find_device
from embedrt.engine.machine import available_threads
from embedrt.engine.placement import place
from embedrt.errors import DeviceError
from embedrt.inputs.check import check_texts
from embedrt.inputs.lines import read_lines
from embedrt.types import dtype_name

_FEWEST_TEXTS, _MOST_TEXTS = 16, 400
_FEWEST_CALLS, _MOST_CALLS = 5, 60
_TRIAL_TEXTS, _TRIAL_CALLS = 32, 5
# Devices that use the CPU's cores, like the peers.
_CPU_KINDS = {"cpu", "openvino"}


@dataclass(frozen=True)
class Request:
    """A comparison to make.

    Attributes:
        model: A bundle, a model folder, `package:NAME`, a name in the store, or a hub id.
        source: The model that a bundle was made of, for peers; None takes the source in its manifest.
        texts: A file of texts, one per line; None takes passages of Python's documentation.
        dtypes: embedrt's dtypes; None for all of the bundle that the device runs.
        devices: embedrt's devices.
        peers: Names of `PEERS`, "auto", "all" or "none".
        rounds: Turns of each engine with each workload; None for 3, or 1 in a quick run.
        threads: Threads of each engine, which is bound to as many cores; None for all.
        scaling: True to measure throughput with 1, 2, 4, ... cores too.
        is_quick: True for one short round.
        command: The command line, for the record.
    """

    model: str
    source: str | None = None
    texts: Path | None = None
    dtypes: Sequence[str] | None = None
    devices: Sequence[str] = ("cpu",)
    peers: Sequence[str] = ("auto",)
    rounds: int | None = None
    threads: int | None = None
    scaling: bool = False
    is_quick: bool = False
    command: str = ""


def bench(request: Request, *, show_progress_bar: bool = False) -> dict[str, Any]:
    """Measure embedrt and its peers; returns the record.

    Raises:
        ValueError: An argument is out of range, or a peer that was named cannot run.
        ModelNotFoundError: There is no such model.
        ExportError: The model has no bundle, and its export failed.
        BundleError: The bundle is damaged, or lacks a dtype that was named.
        DeviceError: A device is unknown or not available, or does not run a dtype that was named.
        OSError: The texts cannot be read.
    """
    from tqdm.auto import tqdm

    _check(request)
    given = None if request.texts is None else _read_texts(request.texts)
    dtypes = None if request.dtypes is None else [dtype_name(name) for name in request.dtypes]
    with tempfile.TemporaryDirectory(prefix="embedrt-bench-") as temporary:
        scratch = Path(temporary)
        prepared = find_bundle(request.model, dtypes, scratch / "bundle")
        subject = describe(prepared, request.source, needs_model=_needs_model(request.peers))
        engines, left_out = _engines(request, subject, prepared.bundle, dtypes)
        files = Files(subject.model, prepared.bundle, scratch / "prepared")
        failed = prepare(engines, files)
        origin = PYTHON_TOPICS if request.texts is None else str(request.texts)
        count_tokens, limit = token_counter(prepared.bundle, subject), max_seq_length(subject)
        plan = _plan(request, given, engines, files, count_tokens)
        about = {
            **circumstances(request.command, subject.name, origin, plan.workloads, count_tokens, limit),
            "note": f"each engine on {request.threads} cores" if request.threads is not None else None,
            "left_out": {**prepared.refused, **left_out},
        }
        total = turns_of(plan, engines)
        with tqdm(total=total, unit="turn", disable=not show_progress_bar, leave=False) as bar:
            measurement = Measurement(engines, failed, files, plan, scratch, bar, request.threads)
            results = measure(measurement)
    about["load_average_after"] = load_average()
    return record(about, results)


def measure(measurement: Measurement) -> dict[str, Result]:
    """Take every measurement of a plan."""
    measurement.starts()
    with measurement:
        measurement.latency()
        measurement.throughput()
    measurement.scaling()
    measurement.soak()
    return measurement.results


def circumstances(
    command: str,
    model: str,
    origin: str,
    texts: Mapping[str, Sequence[str]],
    count_tokens: CountTokens,
    limit: int | None,
) -> dict[str, Any]:
    """Everything about a measurement that is known before it begins, as the record has it.

    Args:
        command: The command line.
        model: The model's name.
        origin: The origin of the texts.
        texts: The workloads.
        count_tokens: Tokens of a text without truncation.
        limit: The model's maximum number of tokens.
    """
    found = machine()
    lengths = {name: [count_tokens(text) for text in some] for name, some in texts.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": None,
        "note": None,
        "machine": {"name": machine_name(found), "title": machine_title(found), **found},
        "versions": versions(),
        "model": model,
        "corpus": origin,
        "workloads": {
            name: {
                "texts": len(some),
                "mean_tokens_read": round(statistics.mean(min(count, limit or count) for count in some), 1),
                "mean_tokens": round(statistics.mean(some), 1),
            }
            for name, some in lengths.items()
        },
        "load_average_before": load_average(),
        "search": None,
        "left_out": {},
    }


def token_counter(bundle: Path, subject: Subject) -> CountTokens:
    """Count the tokens of a text without truncation, special tokens included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / _route(subject).tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def max_seq_length(subject: Subject) -> int | None:
    """The model's maximum number of tokens."""
    return _route(subject).max_seq_length


def _route(subject: Subject) -> Route:
    return next(iter(subject.manifest.routes.values()))


def _check(request: Request) -> None:
    check_peers(request.peers)
    for name, value in (("--rounds", request.rounds), ("--threads", request.threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value}")
    if request.threads is not None:
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError(f"--threads: {sys.platform} cannot bind a process to cores; leave it out")
        if request.threads > available_threads():
            raise ValueError(f"--threads: expected at most {available_threads()}, got {request.threads}")
        if request.scaling:
            raise ValueError("--threads and --scaling exclude each other")
    for device in request.devices:
        find_device(device)


def _read_texts(path: Path) -> list[str]:
    texts = [line for line in read_lines(path) if line.strip()]
    if not texts:
        raise ValueError(f"{path}: expected texts, one per line, found none")
    items, _ = check_texts(texts)
    return items


def _needs_model(peers: Sequence[str]) -> bool:
    """True if a peer that may run needs the model folder, which may have to be downloaded."""
    named = {"auto", "all"} & set(peers)
    return any(
        "model" in engine.requires and engine.version is not None
        for name, engine in PEERS.items()
        if name in peers or named
    )


def _engines(
    request: Request, subject: Subject, bundle: Path, dtypes: Sequence[str] | None
) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that run, and why others are left out."""
    peers, left_out = choose_peers(request.peers, subject)
    devices = [find_device(name) for name in request.devices]
    accelerators = [device.name for device in devices if device.kind not in _CPU_KINDS]
    if accelerators:
        others = dict.fromkeys([name for name in peers if name != REFERENCE], "runs on the CPU only")
        left_out, kind = {**left_out, **others}, accelerators[0].partition(":")[0]
        on = {"cuda": accelerators[0], "coreml": "mps"}[kind]
        peers = {
            name: replace(engine, options={**engine.options, "device": on})
            for name, engine in peers.items()
            if name == REFERENCE
        }
    own: dict[str, Engine] = {}
    for device in devices:
        for dtype in dtypes or ():
            place(bundle, _route(subject), device, dtype)
        able = [dtype for dtype in subject.manifest.dtypes if _runs(bundle, subject, device, dtype)]
        own |= own_engines([device.name], able if dtypes is None else dtypes)
    return {**own, **peers}, left_out


def _runs(bundle: Path, subject: Subject, device: Device, dtype: str) -> bool:
    try:
        place(bundle, _route(subject), device, dtype)
    except DeviceError:
        return False
    return True


def _plan(
    request: Request,
    given: list[str] | None,
    engines: Mapping[str, Engine],
    files: Files,
    count_tokens: CountTokens,
) -> Plan:
    """Workloads of a size that this machine and model encode in a second or two."""
    turn, calls_time = (0.4, 0.1) if request.is_quick else (1.0, 0.4)
    passages = given if given is not None else python_passages()

    def drawn(count: int) -> dict[str, list[str]]:
        return sample(passages, count) if given is not None else workloads(passages, count_tokens, mixed=count)

    trial = Plan(drawn(_TRIAL_TEXTS))
    per_text, per_call = _trial(next(iter(engines.values())), files, trial, request.threads)
    plan = Plan(
        drawn(_between(turn / per_text, _FEWEST_TEXTS, _MOST_TEXTS)),
        calls=_between(calls_time / per_call, _FEWEST_CALLS, _MOST_CALLS),
        cores=core_counts(available_threads()) if request.scaling else (),
        rounds=request.rounds or 3,
    )
    if request.is_quick:
        plan = replace(plan, rounds=request.rounds or 1, starts=1, blocks=2, retries=0)
    return plan


def _trial(engine: Engine, files: Files, plan: Plan, cores: int | None) -> tuple[float, float]:
    """Seconds for one of many texts, and for a call with one; a guess if the engine fails."""
    texts = plan.workloads[plan.main]
    try:
        with closing(engine_worker(engine, files, cores)) as worker:
            worker.ask("encode", texts=texts, save=None)
            many = worker.ask("encode", texts=texts, save=None)["seconds"] / len(texts)
            single = worker.ask("one_by_one", texts=plan.first[:_TRIAL_CALLS])["seconds"]
            return many, statistics.median(single)
    except WorkerError:
        return 0.05, 0.05


def _between(value: float, lowest: int, highest: int) -> int:
    return int(min(highest, max(lowest, value)))

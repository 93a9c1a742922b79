"""The measurements in order, within a time; each that fails or does not fit in is noted, and the others go on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.gpu.models import TRAINED, GpuModel, chosen, model_folder
from benchmarks.gpu.numbers import by_kind, quality
from benchmarks.repository import ROOT
from embedrt.bench.process import OFFLINE, Worker
from embedrt.bench.record import spread

T = TypeVar("T")
_ROUNDS = 3
_SEARCH = 2048  # texts to find the best batch size of sentence-transformers with
_BATCHES = (32, 128, 512, 1024)
_BATCHES_ALONE = (64, 256, 512)
_BUDGETS = (4096, 8192, 16384, 32768, 65536)
_THREADS = (1, 2)
_PARITY_TEXTS, _MOVED_TEXTS = 256, 64
_QUERY = "what does a compiler do with a forward declaration"
_QUERIES = 60
_SQUARE = 8192
_EXPORT_SECONDS = 240  # at most, for all
_ATTENTION = ("sdpa", "flash_attention_2")


@dataclass
class Clock:
    """The steps so far, and the time that is left for more.

    Attributes:
        end: When the time is over, on the clock of `time.monotonic`.
        write: Writes the results so far.
        steps: Name, seconds, and the error of each step.
    """

    end: float
    write: Callable[[], None]
    steps: list[dict[str, Any]] = field(default_factory=list)

    def take(self, name: str, seconds: float, work: Callable[[], T]) -> T | None:
        """Take a step that needs about so many seconds; None if there is no time for it, or if it fails."""
        step: dict[str, Any] = {"step": name, "seconds": 0.0, "error": None}
        self.steps.append(step)
        start, result = time.monotonic(), None
        if start + seconds > self.end:
            step["error"] = "left out: no time for it"
        else:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - whatever one step does, the others go on
                step["error"] = f"{type(error).__name__}: {error}"[:2000]
        step["seconds"] = round(time.monotonic() - start, 1)
        shown = step["error"].splitlines()[-1] if step["error"] else "done"
        print(f"{name}: {shown} ({step['seconds']} s)", flush=True)
        self.write()
        return result


@dataclass(frozen=True)
class Plan:
    """What is measured, and with what.

    Attributes:
        names: The models.
        device: The device, in embedrt's words and torch's.
        dtype: The dtype of both engines.
        is_quick: True for tiny models, few texts and few rounds.
        scratch: A folder for models, bundles and vectors.
    """

    names: tuple[str, ...]
    device: str
    dtype: str
    is_quick: bool
    scratch: Path

    @property
    def queries(self) -> int:
        """Calls with one text."""
        return 3 if self.is_quick else _QUERIES

    @property
    def rounds(self) -> int:
        """Turns of each engine with the same texts."""
        return 1 if self.is_quick else _ROUNDS


class Engines:
    """The worker processes of both engines; one that fails is started again when it is next asked.

    Args:
        plan: What is measured.
        texts: The file with the texts.
        end: When a process is killed that still works, on the clock of `time.monotonic`.
    """

    def __init__(self, plan: Plan, texts: Path, end: float) -> None:
        self._end = end
        self._commands = {
            "own": (sys.executable, "-m", "benchmarks.gpu.own", str(texts)),
            "peer": (sys.executable, "-m", "benchmarks.gpu.peer", str(texts), plan.device),
        }
        self._workers: dict[str, Worker] = {}
        self._loads: dict[str, dict[str, Any]] = {}

    def load(self, engine: str, **request: Any) -> dict[str, Any]:
        """Load a model, which stays for the requests after this."""
        self._loads[engine] = request
        return self.ask(engine, "load", **request)

    def ask(self, engine: str, task: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            WorkerError: It failed.
        """
        if engine not in self._workers:
            self._workers[engine] = Worker(*self._commands[engine], folder=ROOT)
            if task not in {"load", "matmul"}:
                self.ask(engine, "load", **self._loads[engine])
        limit = max(1.0, self._end - time.monotonic())
        try:
            return self._workers[engine].ask(task, limit=limit, **request)
        except Exception:
            self._workers.pop(engine).close()
            raise

    def end(self, engine: str) -> None:
        """End the process of an engine, so that nothing of a model stays on the device."""
        if engine in self._workers:
            self._workers.pop(engine).close()


class Measurement:
    """Measures some models.

    Args:
        plan: What is measured.
        clock: The time for it.
        record: Where the numbers go; see `record`.
        texts: The file with the texts.
    """

    def __init__(self, plan: Plan, clock: Clock, record: dict[str, Any], texts: Path) -> None:
        self._plan = plan
        self._clock = clock
        self._record = record
        self._engines = Engines(plan, texts, clock.end)

    def run(self) -> None:
        """Measure everything."""
        try:
            exported = self._clock.take("models and bundles", 60, self._prepare) or []
            self._clock.take("matmul rate", 20, self._matmul)
            for name in exported:
                self._model(name)
                self._engines.end("own")
        finally:
            for engine in ("own", "peer"):
                self._engines.end(engine)

    def _prepare(self) -> list[str]:
        """Write and export all models at once; returns the names of those that succeeded."""
        plan, started = self._plan, time.monotonic()
        logs = {name: (self._folder(name) / "export.log") for name in plan.names}
        processes = {}
        for name, log in logs.items():
            log.parent.mkdir(parents=True, exist_ok=True)
            size = "quick" if plan.is_quick else "full"
            command = [sys.executable, "-m", "benchmarks.gpu.models", name, size, plan.dtype, str(log.parent)]
            with log.open("wb") as out:
                processes[name] = subprocess.Popen(
                    command, cwd=ROOT, env={**os.environ, **OFFLINE}, stdout=out, stderr=subprocess.STDOUT
                )
        done = []
        for name, process in processes.items():
            entry: dict[str, Any] = {"title": self._model_of(name).title}
            self._record["models"][name] = entry
            try:
                status = process.wait(max(0.0, started + _EXPORT_SECONDS - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            entry["export_s"] = round(time.monotonic() - started, 1)
            if status:
                entry["error"] = logs[name].read_text(errors="replace")[-1000:]
            else:
                done.append(name)
        return done

    def _matmul(self) -> None:
        sizes = {"square": [_SQUARE] * 3} | {
            name: [16384, self._model_of(name).hidden, self._model_of(name).inner] for name in self._plan.names
        }
        if self._plan.is_quick:
            sizes = {name: [64, 64, 64] for name in sizes}
        answer = self._engines.ask("peer", "matmul", dtype=self._plan.dtype, sizes=list(sizes.values()))
        self._record["matmul_tflop_per_s"] = dict(zip(sizes, answer["tflop_per_s"], strict=True))

    def _model(self, name: str) -> None:
        """Measure one model; what its targets need comes first."""
        take, entry = self._clock.take, self._record["models"][name]
        bundle, source = str(self._folder(name) / "bundle"), self._source(name)
        device, dtype = self._plan.device, self._plan.dtype

        def load_own() -> None:
            entry["engine"] = self._engines.load("own", bundle=bundle, device=device, dtype=dtype)["engine"]

        def load_peer() -> None:
            self._engines.load("peer", folder=source, dtype=dtype, attention="sdpa")

        take(f"{name}: load embedrt", 10, load_own)
        take(f"{name}: load sentence-transformers", 20, load_peer)
        entry["memory_mb"] = card_memory()
        take(f"{name}: tokenizer", 2, lambda: self._tokenizer(name))
        for workload in ("mixed", "short"):
            take(f"{name}: batch sizes, {workload}", 15, partial(self._batch_sizes, name, workload))
            take(f"{name}: {workload}", 15, partial(self._end_to_end, name, workload))
        take(f"{name}: model alone, embedrt", 10, lambda: self._own_alone(name))
        take(f"{name}: model alone, torch sdpa", 20, lambda: self._peer_alone(name, "sdpa"))
        take(f"{name}: one query", 5, lambda: self._query(name))
        take(f"{name}: vectors of embedrt", 5, lambda: self._own_vectors(name))
        take(f"{name}: parity", 15, lambda: self._parity(name, source))
        if find_spec("flash_attn") is not None:
            take(f"{name}: model alone, torch flash attention", 20, lambda: self._flash(name, source))
        if device != "cpu":
            take(f"{name}: kernels", 15, lambda: self._kernels(name))
        if name == TRAINED:
            take(f"{name}: model alone, more", 20, lambda: self._own_alone(name, "short"))

    def _tokenizer(self, name: str) -> None:
        entry = self._entry(name, "tokenizer")
        for workload in ("mixed", "short"):
            answers = [
                self._engines.ask("own", "tokenizer", workload=workload, count=self._count(name))
                for _ in range(self._plan.rounds)
            ]
            entry[workload] = {
                "texts": answers[0]["texts"],
                "mean_tokens": round(answers[0]["tokens"] / answers[0]["texts"], 1),
                "texts_per_s": spread([answer["texts"] / answer["seconds"] for answer in answers]),
                "tokens_per_s": spread([answer["tokens"] / answer["seconds"] for answer in answers]),
            }

    def _batch_sizes(self, name: str, workload: str) -> None:
        """Throughput of sentence-transformers by batch size."""
        entry, count = self._entry(name, "end_to_end", workload), min(self._count(name), _SEARCH)
        found: dict[int, float] = entry.setdefault("sentence_transformers_texts_per_s_by_batch", {})
        for batch in _BATCHES:  # the largest may not fit into memory
            found[batch] = self._peer_rate(workload, count, batch)
            entry["sentence_transformers_batch"] = max(found, key=found.__getitem__)

    def _end_to_end(self, name: str, workload: str) -> None:
        """Both engines in turn, sentence-transformers with its best batch size; embedrt alone if it has none."""
        entry, count = self._entry(name, "end_to_end", workload), self._count(name)
        own: list[float] = []
        peer: list[float] = []
        self._rate("own", workload, count)  # memory grows to its size in the first run
        for _ in range(self._plan.rounds):
            own.append(self._rate("own", workload, count))
            entry["embedrt_texts_per_s"] = spread(own)
            if batch := entry.get("sentence_transformers_batch"):
                peer.append(self._peer_rate(workload, count, batch))
                entry["sentence_transformers_texts_per_s"] = spread(peer)
                entry["ratio"] = spread([mine / theirs for mine, theirs in zip(own, peer, strict=True)])

    def _rate(self, engine: str, workload: str, count: int, **request: Any) -> float:
        answer = self._engines.ask(engine, "encode", workload=workload, count=count, **request)
        return float(answer["texts"] / answer["seconds"])

    def _peer_rate(self, workload: str, count: int, batch: int) -> float:
        return self._rate("peer", workload, count, batch=batch)

    def _own_alone(self, name: str, workload: str = "mixed") -> None:
        entry = self._entry(name, "model_alone", workload)
        mean = self._entry(name, "tokenizer").get(workload, {}).get("mean_tokens", 0.0)
        found: dict[str, float] = entry.setdefault("embedrt_tokens_per_s", {})
        for budget in _BUDGETS[: 2 if self._plan.is_quick else None]:  # the largest may not fit into memory
            for count in _THREADS:
                key = f"{budget} tokens, {count} thread{'s' * (count > 1)}"
                found[key] = self._tokens("own", workload, self._count(name), budget=budget, threads=count)
                best = max(found.values())
                entry["embedrt_best_tokens_per_s"] = best
                entry["embedrt_tflop_per_s"] = best * self._model_of(name).flops(mean) / 1e12

    def _peer_alone(self, name: str, attention: str) -> None:
        entry = self._entry(name, "model_alone", "mixed")
        found = entry.setdefault("torch_tokens_per_s", {})
        for batch in _BATCHES_ALONE:
            found[f"{attention}, batch {batch}"] = self._tokens("peer", "mixed", self._count(name), batch=batch)
            entry["torch_best_tokens_per_s"] = max(found.values())

    def _tokens(self, engine: str, workload: str, count: int, **request: Any) -> float:
        answer = self._engines.ask(engine, "model_alone", workload=workload, count=count, **request)
        return float(answer["tokens"] / answer["seconds"])

    def _query(self, name: str) -> None:
        entry = self._entry(name, "one_query")
        repeat = self._plan.queries
        answer = self._engines.ask("own", "query", text=_QUERY, repeat=repeat)
        entry |= {key: value for key, value in answer.items() if key == "tokens" or key.endswith("_ms")}
        theirs = self._engines.ask("peer", "query", text=_QUERY, repeat=repeat)
        entry["sentence_transformers_p50_ms"] = theirs["call_p50_ms"]

    def _own_vectors(self, name: str) -> None:
        together, alone = self._vectors(name, "together"), self._vectors(name, "alone")
        self._engines.ask("own", "encode", workload="mixed", count=_PARITY_TEXTS, save=str(together))
        self._engines.ask("own", "one_by_one", workload="mixed", count=_MOVED_TEXTS, save=str(alone))
        single = np.load(alone)
        entry = self._entry(name, "parity")
        entry["alone_to_together"] = quality(np.load(together)[: len(single)], single)

    def _parity(self, name: str, source: str) -> None:
        """Compare with torch in float32."""
        saved = self._vectors(name, "reference")
        self._engines.load("peer", folder=source, dtype="float32", attention="sdpa")
        self._engines.ask("peer", "encode", workload="mixed", count=_PARITY_TEXTS, batch=64, save=str(saved))
        entry = self._entry(name, "parity")
        entry |= quality(np.load(self._vectors(name, "together")), np.load(saved))

    def _flash(self, name: str, source: str) -> None:
        self._engines.load("peer", folder=source, dtype=self._plan.dtype, attention=_ATTENTION[1])
        self._peer_alone(name, _ATTENTION[1])

    def _kernels(self, name: str) -> None:
        found = self._engines.ask("own", "kernels", workload="mixed", count=self._count(name))["microseconds"]
        entry = self._entry(name, "kernels")
        entry["percent_by_kind"] = {kind: round(share, 1) for kind, share in by_kind(found).items()}
        largest = sorted(found.items(), key=lambda item: -item[1])[:20]
        entry["largest_ms"] = {kernel[:120]: round(time_taken / 1000, 3) for kernel, time_taken in largest}
        entry["total_ms"] = round(sum(found.values()) / 1000, 3)

    def _entry(self, name: str, *path: str) -> dict[str, Any]:
        entry: dict[str, Any] = self._record["models"][name]
        for key in path:
            entry = entry.setdefault(key, {})
        return entry

    def _model_of(self, name: str) -> GpuModel:
        return chosen(name, is_quick=self._plan.is_quick)

    def _count(self, name: str) -> int:
        return self._model_of(name).texts

    def _folder(self, name: str) -> Path:
        return self._plan.scratch / name

    def _source(self, name: str) -> str:
        return str(model_folder(name, self._folder(name), is_quick=self._plan.is_quick))

    def _vectors(self, name: str, kind: str) -> Path:
        return self._folder(name) / f"{kind}.npy"


def card_memory() -> list[int] | None:
    """Memory in use on each card, in MiB; None without NVIDIA's tool."""
    found = nvidia_smi("memory.used")
    return None if found is None else [int(line[0].split()[0]) for line in found]


def nvidia_smi(*fields: str) -> list[list[str]] | None:
    """Fields of every card."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def text_file(path: Path, texts: dict[str, list[str]]) -> Path:
    """Write the texts by workload."""
    path.write_text(json.dumps(texts), encoding="utf-8")
    return path

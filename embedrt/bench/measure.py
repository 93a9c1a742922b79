"""The measurements, one after the other; within each the engines take turns."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedrt.bench.engines import OWN, REFERENCE, Engine, role
from embedrt.bench.peers import Files
from embedrt.bench.process import Worker, WorkerError, engine_worker
from embedrt.bench.results import Result, Run, Soak
from embedrt.bench.turns import Bar, Turns

_WARM_UP_TEXTS = 64  # enough for several batches: an engine may prepare differently for one batch and for many
_SOAK_REPEATS = 10  # of the texts of the stream, so that the texts themselves take little memory


@dataclass(frozen=True)
class Plan:
    """Workloads, and the number of rounds.

    Attributes:
        workloads: Texts by name.
        rounds: Turns of each engine with each workload.
        retries: How often a disturbed turn is repeated if it is short; the least disturbed try counts.
        starts: Cold starts of each engine.
        blocks: Turns of each engine with one text at a time.
        calls: Calls with one text in each of these turns.
        cores: Numbers of cores to measure throughput with; empty for none.
        scaling: Number of texts to measure it with.
        soak: Texts of the stream; 0 leaves it out.
    """

    workloads: dict[str, list[str]]
    rounds: int = 3
    retries: int = 2
    starts: int = 3
    blocks: int = 5
    calls: int = 60
    cores: tuple[int, ...] = ()
    scaling: int = 200
    soak: int = 0

    @property
    def main(self) -> str:
        """The workload that stands for all: "mixed", or the only one."""
        return "mixed" if "mixed" in self.workloads else next(iter(self.workloads))

    @property
    def first(self) -> list[str]:
        """Texts to start with, and to measure one at a time."""
        return self.workloads.get("short") or self.workloads[self.main]


def turns_of(plan: Plan, engines: Mapping[str, Engine]) -> int:
    """The number of turns in a measurement."""
    starts = 1 + plan.starts if plan.starts else 0
    throughput = len(plan.workloads) * (plan.rounds + 1)
    scaled = sum(engine.scales for engine in engines.values()) if plan.cores else 0
    soaked = sum(role(name) == "own" for name in engines) if plan.soak else 0
    return len(engines) * (starts + 2 + plan.blocks + throughput) + scaled * (1 + plan.rounds) + soaked


def core_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and all cores; empty if there is one, or if processes cannot be bound to cores."""
    if cores == 1 or not hasattr(os, "sched_setaffinity"):
        return ()
    return (*itertools.takewhile(lambda count: count < cores, (2**i for i in itertools.count())), cores)


def reference_of(results: Mapping[str, Result]) -> str | None:
    """The engine that ratios, cosines and errors refer to: sentence-transformers, else embedrt in float32."""
    own = [name for name in results if role(name) == "own"]
    able = (name for name in (REFERENCE, OWN, *own) if name in results and results[name].error is None)
    return next(able, None)


class Measurement:
    """Measures some engines on the same texts. A `with` block has a process for each.

    Args:
        engines: The engines by name, all of them installed.
        failed: Why some of them cannot run.
        files: The files that they load.
        plan: What is measured.
        scratch: A folder for vectors.
        bar: Shows whose turn it is.
        cores: The number of cores that each engine may use; None for all.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        failed: Mapping[str, str],
        files: Files,
        plan: Plan,
        scratch: Path,
        bar: Bar,
        cores: int | None = None,
    ) -> None:
        self.plan = plan
        self.results = {
            name: Result(engine.version, engine.dtype, engine.settings, failed.get(name))
            for name, engine in engines.items()
        }
        self.turns = Turns(self.results, plan.retries, bar)
        self._engines = engines
        self._files = files
        self._scratch = scratch
        self._cores = cores
        self._workers: dict[str, Worker] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start a process for each engine, one after the other, and warm it up."""
        with contextlib.ExitStack() as stack:
            self._load(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.clear()
        self._stack.close()

    def starts(self) -> None:
        """Cold starts: fresh processes. The first round only brings the files into the system's cache."""
        text = self.plan.first[0]

        def start(name: str, result: Result) -> None:
            def fresh() -> dict[str, float]:
                with self._worker(name) as worker:
                    return worker.ask("encode", texts=[text], save=None)

            result.start_seconds.append(self.turns.undisturbed(fresh)["wall_seconds"])

        for _ in range(1 + self.plan.starts if self.plan.starts else 0):
            self.turns.each("start", start)
        for result in self.results.values():
            del result.start_seconds[:1]

    def _load(self, stack: contextlib.ExitStack) -> None:
        texts = self.plan.first

        def load(name: str, result: Result) -> None:
            worker = self._workers[name] = stack.enter_context(self._worker(name))
            result.loaded_rss_mb = worker.ask("encode", texts=texts[:1], save=None)["peak_rss_mb"]

        def warm_up(name: str, result: Result) -> None:
            self._workers[name].ask("encode", texts=_warm_up(texts), save=None)

        self.turns.each("load", load)
        self.turns.each("warm up", warm_up)

    def latency(self) -> None:
        """One text at a time."""
        supply = itertools.cycle(self.plan.first)
        for _ in range(self.plan.blocks):
            block = list(itertools.islice(supply, self.plan.calls))

            def one_by_one(name: str, result: Result, block: list[str] = block) -> None:
                answer = self.turns.undisturbed(lambda: self._workers[name].ask("one_by_one", texts=block))
                result.one_text_ms.append([1000 * seconds for seconds in answer["seconds"]])
                result.one_text_other_cores.append(answer["other_cores"])

            self.turns.each("one text", one_by_one)

    def throughput(self, before_round: Callable[[str], None] | None = None) -> None:
        """All texts of each workload at once, and the comparison of the vectors.

        Args:
            before_round: Called with the name of the workload before each round.
        """
        for workload, texts in self.plan.workloads.items():

            def encode(name: str, result: Result, workload: str = workload, texts: list[str] = texts) -> None:
                save = self._vectors(name, workload)
                self._encode(self._workers[name], texts, result.runs.setdefault(workload, Run()), save)

            for _ in range(self.plan.rounds):
                if before_round is not None:
                    before_round(workload)
                self.turns.each(workload, encode)
        for workload in self.plan.workloads:
            self.turns.each(f"compare {workload}", partial(self._compare, workload))

    def encode(self, name: str, part: str, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of other texts, outside of all rounds.

        Raises:
            WorkerError: The engine failed.
        """
        save = self._vectors(name, part)
        self._workers[name].ask("encode", texts=texts, save=str(save))
        vectors: NDArray[np.float32] = np.load(save)
        return vectors

    def scaling(self) -> None:
        """Throughput with few cores and with all, in processes that may use no other; one engine after the other."""
        texts = self.plan.workloads[self.plan.main][: self.plan.scaling]
        if not texts or not self.plan.cores:
            return
        for name in (name for name in self.results if self._engines[name].scales):
            with contextlib.ExitStack() as stack:
                workers: dict[int, Worker] = {}

                def load(
                    name: str, result: Result, stack: contextlib.ExitStack = stack, workers: dict[int, Worker] = workers
                ) -> None:
                    for count in self.plan.cores:
                        workers[count] = stack.enter_context(self._worker(name, count))
                        workers[count].ask("encode", texts=_warm_up(texts), save=None)

                def encode(name: str, result: Result, workers: dict[int, Worker] = workers) -> None:
                    for count, worker in workers.items():
                        self._encode(worker, texts, result.by_cores.setdefault(count, Run()), None)

                self.turns.each("load", load, [name])
                for _ in range(self.plan.rounds):
                    self.turns.each("cores", encode, [name])

    def soak(self) -> None:
        """Embedrt alone in a process, with a stream of any mix of lengths: the memory must stay where it is."""
        repeats = min(_SOAK_REPEATS, self.plan.soak)
        if not repeats:
            return
        texts = list(itertools.islice(_any_mix(self.plan.workloads), self.plan.soak // repeats))

        def stream(name: str, result: Result) -> None:
            with self._worker(name) as worker:
                done = worker.ask("stream", texts=texts, repeat=repeats)
            result.soak = Soak(done["texts"], done["seconds"], done["peak_rss_mb"])

        self.turns.each("stream", stream, [name for name in self.results if role(name) == "own"])

    @contextlib.contextmanager
    def _worker(self, name: str, cores: int | None = None) -> Iterator[Worker]:
        try:
            worker = engine_worker(self._engines[name], self._files, cores or self._cores)
        except OSError as error:
            raise WorkerError(str(error)) from None
        with contextlib.closing(worker):
            yield worker

    def _vectors(self, name: str, part: str) -> Path:
        return self._scratch / f"{name}.{part}.npy"

    def _encode(self, worker: Worker, texts: list[str], run: Run, save: Path | None) -> None:
        answer = self.turns.undisturbed(lambda: worker.ask("encode", texts=texts, save=save and str(save)))
        run.texts_per_second.append(len(texts) / answer["seconds"])
        run.cpu_ms_per_text.append(1000 * answer["cpu_seconds"] / len(texts))
        run.other_cores.append(answer["other_cores"])
        run.peak_rss_mb = answer["peak_rss_mb"]

    def _compare(self, workload: str, name: str, result: Result) -> None:
        reference = reference_of(self.results)
        if reference is None:
            return
        run = result.runs[workload]
        vectors: NDArray[np.float64] = np.load(self._vectors(name, workload)).astype(np.float64)
        expected: NDArray[np.float64] = np.load(self._vectors(reference, workload)).astype(np.float64)
        if vectors.shape != expected.shape:
            raise WorkerError(f"{workload}: expected vectors {list(expected.shape)}, got {list(vectors.shape)}")
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = (vectors * expected).sum(axis=1) / norms
        run.min_cosine, run.mean_cosine = float(cosines.min()), float(cosines.mean())
        run.max_abs_error = float(np.abs(vectors - expected).max())


def _warm_up(texts: list[str]) -> list[str]:
    return list(itertools.islice(itertools.cycle(texts), _WARM_UP_TEXTS))


def _any_mix(workloads: dict[str, list[str]]) -> Iterator[str]:
    """Texts of each workload in turn, without end."""
    for texts in zip(*(itertools.cycle(texts) for texts in workloads.values()), strict=True):
        yield from texts

"""The measurements, one after the other; within each the engines take turns."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.engines import ENGINES, REFERENCE, role
from benchmarks.models import Shape
from benchmarks.peers import Files
from benchmarks.process import Worker, WorkerError, engine_worker
from benchmarks.results import Gemm, Result, Run, Soak
from benchmarks.retrieval import SAME, Search, ndcg_at_10
from benchmarks.turns import Turns
from embedrt.engine.machine import available_threads

_START_ROUNDS = 3
_WARM_UP_TEXTS = 64  # enough for several batches: an engine may prepare differently for one batch and for many
_LATENCY_BLOCKS, _LATENCY_BLOCK = 5, 60
_GEMM_SECONDS = 1.5  # for each way to multiply; some of the slices of that time are undisturbed
_SOAK_REPEATS = 10  # of the texts of the long stream, so that the texts themselves take little memory


@dataclass(frozen=True)
class Plan:
    """Workloads, and the number of rounds.

    Attributes:
        workloads: Texts by name: "short", "mixed", "long".
        search: What retrieval is measured by, or None.
        rounds: How often each engine encodes each workload.
        retries: How often a disturbed turn is repeated if it is short; the least disturbed try counts.
        scaling: Mixed texts for the comparison of one core with all; 0 leaves it out.
        soak: Texts of the long stream; 0 leaves it out.
        shape: Of the model.
    """

    workloads: dict[str, list[str]]
    search: Search | None
    rounds: int
    retries: int
    scaling: int
    soak: int
    shape: Shape


class Measurement:
    """Measures some engines on the same texts.

    Args:
        names: The engines, all of them installed.
        failed: Why some of them cannot run.
        files: What they load.
        plan: What is measured.
        scratch: A folder for vectors.
    """

    def __init__(self, names: list[str], failed: dict[str, str], files: Files, plan: Plan, scratch: Path) -> None:
        self._files = files
        self._plan = plan
        self._scratch = scratch
        self._workers: dict[str, Worker] = {}
        self._gemm = Gemm()
        self._results = {
            name: Result(ENGINES[name].version, ENGINES[name].dtype, ENGINES[name].settings, failed.get(name))
            for name in names
        }

    def run(self) -> tuple[dict[str, Result], Gemm]:
        """Measures everything."""
        plan = self._plan
        short = plan.workloads["short"]
        with tqdm(unit="turn") as bar:
            turns = Turns(self._results, plan.retries, bar)
            self._starts(turns, short[0])
            with contextlib.ExitStack() as stack:
                self._load(turns, short, stack)
                self._latency(turns, short)
                self._throughput(turns)
                for workload in plan.workloads:
                    turns.each(f"compare {workload}", partial(self._compare, workload))
                if plan.search is not None:
                    self._retrieval(turns, plan.search)
            self._scaling(turns)
            self._soak(turns)
        return self._results, self._gemm

    def _starts(self, turns: Turns, text: str) -> None:
        """Fresh processes. The first round only brings the files into the system's cache."""

        def start(name: str, result: Result) -> None:
            def fresh() -> dict[str, float]:
                with self._worker(name) as worker:
                    return worker.ask("encode", texts=[text], save=None)

            result.start_seconds.append(turns.undisturbed(fresh)["wall_seconds"])

        for _ in range(1 + _START_ROUNDS):
            turns.each("start", start)
        for result in self._results.values():
            del result.start_seconds[:1]

    def _load(self, turns: Turns, texts: list[str], stack: contextlib.ExitStack) -> None:
        def load(name: str, result: Result) -> None:
            worker = self._workers[name] = stack.enter_context(self._worker(name))
            result.loaded_rss_mb = worker.ask("encode", texts=texts[:1], save=None)["peak_rss_mb"]

        def warm_up(name: str, result: Result) -> None:
            self._workers[name].ask("encode", texts=_warm_up(texts), save=None)

        turns.each("load", load)
        turns.each("warm up", warm_up)

    def _latency(self, turns: Turns, texts: list[str]) -> None:
        supply = itertools.cycle(texts)
        for _ in range(_LATENCY_BLOCKS):
            block = list(itertools.islice(supply, _LATENCY_BLOCK))

            def one_by_one(name: str, result: Result, block: list[str] = block) -> None:
                answer = turns.undisturbed(lambda: self._workers[name].ask("one_by_one", texts=block))
                result.one_text_ms.append([1000 * seconds for seconds in answer["seconds"]])
                result.one_text_other_cores.append(answer["other_cores"])

            turns.each("one text", one_by_one)

    def _throughput(self, turns: Turns) -> None:
        shape = self._plan.shape
        with contextlib.closing(
            Worker("benchmarks.gemm", str(shape.layers), str(shape.hidden), str(shape.inner))
        ) as gemm:
            for workload, texts in self._plan.workloads.items():

                def encode(name: str, result: Result, workload: str = workload, texts: list[str] = texts) -> None:
                    save = self._vectors(name, workload)
                    _encode(turns, self._workers[name], texts, result.runs.setdefault(workload, Run()), save)

                for _ in range(self._plan.rounds):
                    if workload == "mixed":
                        rate = turns.undisturbed(lambda: gemm.ask("gemm", seconds=_GEMM_SECONDS))
                        self._gemm.one.append(rate["one"])
                        self._gemm.all.append(rate["all"])
                        self._gemm.other_cores.append(rate["other_cores"])
                    turns.each(workload, encode)

    def _retrieval(self, turns: Turns, search: Search) -> None:
        def find(name: str, result: Result) -> None:
            error = result.max_abs_error
            if role(name) == "peer" and error is not None and error <= SAME:
                result.same_vectors = True
                return
            vectors = []
            for part, texts in (("queries", search.queries), ("documents", search.documents)):
                save = self._vectors(name, part)
                self._workers[name].ask("encode", texts=texts, save=str(save))
                vectors.append(np.load(save))
            result.ndcg = 100 * ndcg_at_10(vectors[0], vectors[1], search.relevant)

        turns.each("search", find)

    def _scaling(self, turns: Turns) -> None:
        """Mixed texts with one core and with all, in processes that may use no other."""
        texts = self._plan.workloads["mixed"][: self._plan.scaling]
        names = [name for name in self._results if ENGINES[name].scales]
        counts = (1, available_threads())
        if not texts or counts[1] == 1 or not hasattr(os, "sched_setaffinity"):
            return
        with contextlib.ExitStack() as stack:
            workers: dict[tuple[str, int], Worker] = {}

            def load(name: str, result: Result) -> None:
                for count in counts:
                    workers[name, count] = stack.enter_context(self._worker(name, count))
                    workers[name, count].ask("encode", texts=_warm_up(texts), save=None)

            def encode(name: str, result: Result) -> None:
                for count in counts:
                    run = result.by_cores.setdefault(str(count), Run())
                    _encode(turns, workers[name, count], texts, run, None)

            turns.each("load", load, names)
            for _ in range(self._plan.rounds):
                turns.each("cores", encode, names)

    def _soak(self, turns: Turns) -> None:
        """embedrt alone in a process, with a long stream: the memory must stay where it is."""
        repeats = min(_SOAK_REPEATS, self._plan.soak)
        if not repeats:
            return
        texts = list(itertools.islice(_any_mix(self._plan.workloads), self._plan.soak // repeats))

        def stream(name: str, result: Result) -> None:
            with self._worker(name) as worker:
                done = worker.ask("stream", texts=texts, repeat=repeats)
            result.soak = Soak(done["texts"], done["seconds"], done["peak_rss_mb"])

        turns.each("stream", stream, [name for name in self._results if role(name) == "own"])

    @contextlib.contextmanager
    def _worker(self, name: str, cores: int | None = None) -> Iterator[Worker]:
        try:
            worker = engine_worker(name, self._files, cores)
        except OSError as error:
            raise WorkerError(str(error)) from None
        with contextlib.closing(worker):
            yield worker

    def _vectors(self, name: str, workload: str) -> Path:
        return self._scratch / f"{name}.{workload}.npy"

    def _compare(self, workload: str, name: str, result: Result) -> None:
        reference = self._vectors(REFERENCE, workload)
        if not reference.is_file():
            return
        run = result.runs[workload]
        vectors: NDArray[np.float64] = np.load(self._vectors(name, workload)).astype(np.float64)
        expected: NDArray[np.float64] = np.load(reference).astype(np.float64)
        if vectors.shape != expected.shape:
            raise WorkerError(f"{workload}: vectors {list(vectors.shape)}, expected {list(expected.shape)}")
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = (vectors * expected).sum(axis=1) / norms
        run.min_cosine, run.mean_cosine = float(cosines.min()), float(cosines.mean())
        run.max_abs_error = float(np.abs(vectors - expected).max())


def _warm_up(texts: list[str]) -> list[str]:
    return list(itertools.islice(itertools.cycle(texts), _WARM_UP_TEXTS))


def _encode(turns: Turns, worker: Worker, texts: list[str], run: Run, save: Path | None) -> None:
    answer = turns.undisturbed(lambda: worker.ask("encode", texts=texts, save=save and str(save)))
    run.texts_per_second.append(len(texts) / answer["seconds"])
    run.cpu_ms_per_text.append(1000 * answer["cpu_seconds"] / len(texts))
    run.other_cores.append(answer["other_cores"])
    run.peak_rss_mb = answer["peak_rss_mb"]


def _any_mix(workloads: dict[str, list[str]]) -> Iterator[str]:
    """Short, mixed and long texts in turn, without end."""
    for texts in zip(*(itertools.cycle(texts) for texts in workloads.values()), strict=True):
        yield from texts

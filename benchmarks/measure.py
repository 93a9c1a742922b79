"""The measurements. Engines take turns, and one works while the others wait. A turn that something else on the machine
disturbed is repeated.
"""

import contextlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.engines import ENGINES, REFERENCE
from benchmarks.process import Worker, WorkerError

_START_ROUNDS = 3
_WARM_UP_TEXTS = 64  # enough for several batches: an engine may prepare differently for one batch and for many
_LATENCY_BLOCKS, _LATENCY_BLOCK = 5, 60
# A turn counts as disturbed if anything but the engine used more than this share of all processors meanwhile.
_DISTURBED = 0.05
# A longer turn is not repeated: it would hardly find a quiet moment of its length, and some of the noise averages out.
_REPEATABLE_SECONDS = 15


@dataclass
class Run:
    """One engine on one workload.

    Attributes:
        texts_per_second: By round.
        cpu_ms_per_text: Processor time of the whole process, by round.
        other_cores: Processors that everything but the engine used meanwhile, by round; None where that is not known.
        peak_rss_mb: The most memory that the process held up to the end of this workload, in 10^6 bytes.
        min_cosine: Smallest cosine to the reference.
        mean_cosine: Mean cosine to the reference.
        max_abs_error: Largest difference of a coordinate to the reference.
    """

    texts_per_second: list[float] = field(default_factory=list)
    cpu_ms_per_text: list[float] = field(default_factory=list)
    other_cores: list[float | None] = field(default_factory=list)
    peak_rss_mb: float | None = None
    min_cosine: float | None = None
    mean_cosine: float | None = None
    max_abs_error: float | None = None


@dataclass
class Result:
    """What was measured of one engine.

    Attributes:
        version: The installed version.
        settings: See `Engine`.
        error: Why it failed, or None. What was measured before is kept.
        start_seconds: From starting a process to its first vector, by round.
        loaded_rss_mb: The most memory that the process held up to its first vector, in 10^6 bytes.
        one_text_ms: Time of each call with one short text.
        one_text_other_cores: As in `Run`, by block of calls.
        runs: By workload.
    """

    version: str | None
    settings: str
    error: str | None = None
    start_seconds: list[float] = field(default_factory=list)
    loaded_rss_mb: float | None = None
    one_text_ms: list[float] = field(default_factory=list)
    one_text_other_cores: list[float | None] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)


Action = Callable[[str, Result], None]


def disturbed(other_cores: float | None) -> bool:
    """Whether something else on the machine used too much of it for the numbers to be the engine's own."""
    return other_cores is not None and other_cores > _DISTURBED * (os.cpu_count() or 1)


class Measurement:
    """Measures some engines on the same texts.

    Args:
        names: The engines, all of them installed.
        model: The model folder.
        bundle: The bundle made of it.
        rounds: How often each engine encodes each workload.
        retries: How often a disturbed turn is repeated if it is short; the least disturbed try counts.
        scratch: A folder for vectors.
    """

    def __init__(
        self, names: list[str], model: Path, bundle: Path, *, rounds: int, retries: int, scratch: Path
    ) -> None:
        self._names = names
        self._model = model
        self._bundle = bundle
        self._rounds = rounds
        self._retries = retries
        self._scratch = scratch
        self._workers: dict[str, Worker] = {}
        self._results: dict[str, Result] = {}
        self._bar: Any = None

    def run(self, workloads: dict[str, list[str]]) -> dict[str, Result]:
        """Measures everything. An engine that fails is left out from then on, and its result has the error."""
        self._results = {name: Result(ENGINES[name].version, ENGINES[name].settings) for name in self._names}
        turns = 1 + _START_ROUNDS + 2 + _LATENCY_BLOCKS + self._rounds * len(workloads)
        short = workloads["short"]
        with (
            tqdm(total=turns * len(self._names), unit="turn") as self._bar,
            contextlib.ExitStack() as stack,
        ):
            self._starts(short[0])
            self._load(short, stack)
            self._latency(short)
            for workload, texts in workloads.items():
                self._throughput(workload, texts)
        for name, result in self._results.items():
            for workload, run in result.runs.items():
                self._compare(name, workload, run)
        return self._results

    def _in_turn(self, what: str, action: Action) -> None:
        for name, result in self._results.items():
            if result.error is None:
                self._bar.set_description(f"{what}: {name}")
                try:
                    action(name, result)
                except WorkerError as error:
                    result.error = str(error)
            self._bar.update()

    def _undisturbed(self, attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The least disturbed of some tries. How fast a try was has no say in it."""
        best = attempt()
        for _ in range(self._retries):
            if not disturbed(best["other_cores"]) or best["wall_seconds"] > _REPEATABLE_SECONDS:
                break
            best = min(best, attempt(), key=lambda done: done["other_cores"])
        return best

    def _starts(self, text: str) -> None:
        """Fresh processes. The first round only brings the files into the system's cache."""

        def fresh(name: str) -> dict[str, Any]:
            worker = Worker(name, self._model, self._bundle)
            try:
                return worker.ask("encode", texts=[text], save=None)
            finally:
                worker.close()

        def start(name: str, result: Result) -> None:
            result.start_seconds.append(self._undisturbed(lambda: fresh(name))["wall_seconds"])

        for _ in range(1 + _START_ROUNDS):
            self._in_turn("start", start)
        for result in self._results.values():
            del result.start_seconds[:1]

    def _load(self, texts: list[str], stack: contextlib.ExitStack) -> None:
        def load(name: str, result: Result) -> None:
            worker = self._workers[name] = Worker(name, self._model, self._bundle)
            stack.callback(worker.close)
            result.loaded_rss_mb = worker.ask("encode", texts=texts[:1], save=None)["peak_rss_mb"]

        def warm_up(name: str, result: Result) -> None:
            self._workers[name].ask("encode", texts=texts[:_WARM_UP_TEXTS], save=None)

        self._in_turn("load", load)
        self._in_turn("warm up", warm_up)

    def _latency(self, texts: list[str]) -> None:
        supply = itertools.cycle(texts)
        for _ in range(_LATENCY_BLOCKS):
            block = list(itertools.islice(supply, _LATENCY_BLOCK))

            def one_by_one(name: str, result: Result, block: list[str] = block) -> None:
                answer = self._undisturbed(lambda: self._workers[name].ask("one_by_one", texts=block))
                result.one_text_ms += [1000 * seconds for seconds in answer["seconds"]]
                result.one_text_other_cores.append(answer["other_cores"])

            self._in_turn("one text", one_by_one)

    def _throughput(self, workload: str, texts: list[str]) -> None:
        def encode(name: str, result: Result) -> None:
            run = result.runs.setdefault(workload, Run())
            save = str(self._vectors(name, workload))
            answer = self._undisturbed(lambda: self._workers[name].ask("encode", texts=texts, save=save))
            run.texts_per_second.append(len(texts) / answer["seconds"])
            run.cpu_ms_per_text.append(1000 * answer["cpu_seconds"] / len(texts))
            run.other_cores.append(answer["other_cores"])
            run.peak_rss_mb = answer["peak_rss_mb"]

        for _ in range(self._rounds):
            self._in_turn(workload, encode)

    def _vectors(self, name: str, workload: str) -> Path:
        return self._scratch / f"{name}.{workload}.npy"

    def _compare(self, name: str, workload: str, run: Run) -> None:
        ours, reference = self._vectors(name, workload), self._vectors(REFERENCE, workload)
        if not ours.is_file() or not reference.is_file():
            return
        vectors: NDArray[np.float64] = np.load(ours).astype(np.float64)
        expected: NDArray[np.float64] = np.load(reference).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = (vectors * expected).sum(axis=1) / norms
        run.min_cosine, run.mean_cosine = float(cosines.min()), float(cosines.mean())
        run.max_abs_error = float(np.abs(vectors - expected).max())

"""embedrt in a process of its own, as `python -m benchmarks.gpu.own TEXTS`; it answers requests as `worker` does."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.numbers import median_ms, read_texts
from embedrt import Embedder
from embedrt.bench.worker import Answer, serve
from embedrt.run.batches import make_batch
from embedrt.run.runner import Runner
from embedrt.types import SENTENCE

_SLICE = 2048


class Own:
    """One loaded model at a time.

    Args:
        texts: The file with the texts by workload.
    """

    def __init__(self, texts: Path) -> None:
        self._texts = read_texts(texts)
        self._embedder: Embedder | None = None

    def load(self, bundle: str, device: str, dtype: str) -> Answer:
        """Load a bundle in place of the one before."""
        self._embedder = None
        start = time.perf_counter()
        self._embedder = Embedder(bundle, device=device, dtype=dtype)
        self._embedder.encode(self._texts["mixed"][:8])
        return {"seconds": time.perf_counter() - start, "engine": self._runner.engine.description}

    def encode(self, workload: str, count: int, save: str | None = None) -> Answer:
        """Encode texts from end to end."""
        texts = self._texts[workload][:count]
        start = time.perf_counter()
        vectors = self._loaded.encode(texts)
        seconds = time.perf_counter() - start
        if save is not None:
            np.save(save, vectors)
        return {"seconds": seconds, "texts": len(texts)}

    def one_by_one(self, workload: str, count: int, save: str) -> Answer:
        """Encode each text in a call of its own."""
        np.save(save, np.stack([self._loaded.encode(text) for text in self._texts[workload][:count]]))
        return {}

    def tokenizer(self, workload: str, count: int) -> Answer:
        """The tokenizer alone."""
        texts = self._texts[workload][:count]
        start = time.perf_counter()
        tokens = sum(len(self._runner.tokenize(texts[i : i + _SLICE]).ids) for i in range(0, len(texts), _SLICE))
        return {"seconds": time.perf_counter() - start, "texts": len(texts), "tokens": tokens}

    def model_alone(self, workload: str, count: int, budget: int, threads: int) -> Answer:
        """Token ids to vectors: batches of at most so many tokens, sorted by length, run by some threads."""
        runner = self._runner
        tokens = runner.tokenize(self._texts[workload][:count])
        route, packing = runner.route, runner.placement.variant.packing
        rows = cut(tokens.lengths, budget)

        def run(batch: NDArray[np.int64]) -> None:
            longest = int(tokens.lengths[batch].max())
            runner.engine.run(make_batch(tokens, batch, longest, route.tokenization, packing), [SENTENCE])

        for batch in (rows[0], rows[-1]):  # the largest shapes first, so that memory does not grow meanwhile
            run(batch)
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, rows))
        return {"seconds": time.perf_counter() - start, "texts": len(tokens), "tokens": len(tokens.ids)}

    def query(self, text: str, repeat: int) -> Answer:
        """One text: a whole call; the engine with the batch alone, which may replay a CUDA graph; and beside others."""
        runner = self._runner
        tokens = runner.tokenize([text])
        route, packing = runner.route, runner.placement.variant.packing
        only = np.zeros(1, np.int64)

        def engine(*, alone: bool) -> Any:
            longest = len(tokens.ids)
            return runner.engine.run(
                make_batch(tokens, only, longest, route.tokenization, packing, alone=alone), [SENTENCE]
            )

        return {
            "tokens": len(tokens.ids),
            "call_p50_ms": median_ms(lambda: self._loaded.encode(text), repeat),
            "engine_alone_p50_ms": median_ms(lambda: engine(alone=True), repeat),
            "engine_beside_others_p50_ms": median_ms(lambda: engine(alone=False), repeat),
        }

    def kernels(self, workload: str, count: int) -> Answer:
        """Time of every CUDA kernel while texts are encoded, by torch's profiler, which sees those of all libraries."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as found:
            self._loaded.encode(self._texts[workload][:count])
        microseconds = {event.key: float(event.self_device_time_total) for event in found.key_averages()}
        return {"microseconds": {name: time for name, time in microseconds.items() if time > 0}}

    @property
    def _loaded(self) -> Embedder:
        assert self._embedder is not None
        return self._embedder

    @property
    def _runner(self) -> Runner:
        (runner,) = self._loaded.runners.values()
        return runner


def cut(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Indexes of texts in batches of at most so many tokens, longest first."""
    order = np.argsort(-lengths, kind="stable")
    numbers = np.maximum(0, np.cumsum(lengths[order]) - 1) // budget
    return [part for part in np.split(order, np.flatnonzero(np.diff(numbers)) + 1) if len(part)]


def main() -> None:
    """Serve."""
    own = Own(Path(sys.argv[1]))
    tasks = (own.load, own.encode, own.one_by_one, own.tokenizer, own.model_alone, own.query, own.kernels)
    serve(lambda: {task.__name__: task for task in tasks})


if __name__ == "__main__":
    main()

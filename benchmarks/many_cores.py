"""Throughput by number of cores, and what limits it: `python -m benchmarks.many_cores BUNDLE`.

Four ways to use N cores, in texts per second and as a share of N times one core:

- threads: one process with N threads, as `Embedder` works.
- processes: N processes of one thread, each bound to a core, with an equal share of the texts. Where they fall short as
  much as the threads do, it is the machine: its clock with all cores busy, shared caches, memory.
- clock: N threads that multiply small matrices, which need no memory and no Python. What they lose is the clock, or
  hyperthreads counted as cores.
- simulated: one process with N threads over an engine that sleeps for as long as one core needs for the batch, and a
  tokenizer that has its tokens already and sleeps for an Nth of the time. N may be larger than the machine. What it
  loses is Python, the wait for the first tokens, and threads without a batch at the end of a call. Its share is the
  time that the threads sleep.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import load_corpus
from embedrt import Embedder
from embedrt.engine import Batch, Device, numa
from embedrt.engine.machine import available_threads, cpu_model
from embedrt.inputs.text import Encoded, Portion, TextTokenizer
from embedrt.run.runner import _CHARACTERS_PER_WORKER, _SLICE

_CALIBRATION = 300  # texts that tell how long the simulated engine sleeps
_CLOCK_SECONDS = 1.0
_PRODUCTS = 64  # in one run of the clock


class Sleeping:
    """An engine that takes as long as a real one and computes nothing.

    Args:
        engine: The real one.
        threads: Threads that run batches at once.
        costs: Seconds of a run, and of each token in it.
        width: Of its vectors.

    Attributes:
        seconds: The time of each batch so far.
    """

    def __init__(self, engine: Any, threads: int, costs: tuple[float, float], width: int) -> None:
        self.device: Device = engine.device
        self.threads = self.workers = threads
        self.description = "sleep"
        self.seconds: list[float] = []
        self._costs = costs
        self._width = width

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        per_run, per_token = self._costs
        self.seconds.append(per_run + per_token * batch.tokens)
        time.sleep(self.seconds[-1])
        return {name: np.zeros((batch.shape[0], self._width), np.float32) for name in outputs}


class Ready:
    """A tokenizer of portions that were tokenized before.

    Args:
        tokenizer: The tokenizer.
        cores: The cores that would share its work.
    """

    def __init__(self, tokenizer: TextTokenizer, cores: int) -> None:
        self._encode = tokenizer.encode
        self._cores = cores
        self._ready: dict[str | None, tuple[Encoded, float]] = {}

    def prepare(self, portion: Portion) -> None:
        start = time.process_time()
        encoded = self._encode(portion)
        self._ready[portion.heads[0]] = encoded, time.process_time() - start

    def encode(self, portion: Portion) -> Encoded:
        encoded, seconds = self._ready.pop(portion.heads[0])
        time.sleep(seconds / self._cores)
        return encoded


def costs_of(embedder: Embedder, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds of a run and of a token on one core: a line through the batches of real texts."""
    engine = embedder.runners["default"].engine
    sizes, seconds = [], []
    plain = engine.run

    def timed(batch: Batch, outputs: Sequence[str]) -> Any:
        start = time.perf_counter()
        try:
            return plain(batch, outputs)
        finally:
            sizes.append(batch.tokens)
            seconds.append(time.perf_counter() - start)

    engine.run = timed  # type: ignore[method-assign]
    try:
        embedder.encode(list(texts))
        embedder.encode(list(texts), batch_size=1)
    finally:
        engine.run = plain  # type: ignore[method-assign]
    per_token, per_run = np.polyfit(sizes, seconds, 1)
    return max(0.0, float(per_run)), float(per_token)


def rate(work: Callable[[], Any], amount: float, rounds: int) -> float:
    """The median of amounts per second."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(amount / (time.perf_counter() - start))
    return statistics.median(found)


def by_threads(bundle: Path, dtype: str, texts: list[str], threads: int, rounds: int) -> float:
    embedder = Embedder(bundle, "cpu", dtype=dtype, threads=threads)
    embedder.encode(texts[:_CALIBRATION])
    return rate(lambda: embedder.encode(texts), len(texts), rounds)


def by_processes(bundle: Path, dtype: str, texts: list[str], cores: Sequence[int], rounds: int) -> float:
    shares = [texts[i :: len(cores)] for i in range(len(cores))]
    command = [sys.executable, "-m", "benchmarks.many_cores", str(bundle), "--dtype", dtype, "--serve"]
    workers = [
        subprocess.Popen([*command, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for core in cores
    ]

    def tell(lines: Sequence[str]) -> None:
        for worker, line in zip(workers, lines, strict=True):
            assert worker.stdin is not None
            worker.stdin.write(line + "\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "done\n"

    try:
        tell([json.dumps(share) for share in shares])
        return rate(lambda: tell(["go"] * len(cores)), len(texts), rounds)
    finally:
        for worker in workers:
            worker.communicate()


def serve(bundle: Path, dtype: str, core: int) -> None:
    """A worker of `by_processes`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    embedder = Embedder(bundle, "cpu", dtype=dtype, threads=1)
    texts = json.loads(sys.stdin.readline())
    embedder.encode(texts[:_CALIBRATION])
    print("done", flush=True)
    for _ in sys.stdin:
        embedder.encode(texts)
        print("done", flush=True)


def by_clock(threads: int) -> float:
    """Products of matrices that stay in the cache of a core, per second, all threads together."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [128, 128]) for name in ("x", "y")]
    names = ["x", *(f"v{i}" for i in range(1, _PRODUCTS)), "y"]
    nodes = [helper.make_node("MatMul", [a, "x"], [b]) for a, b in pairwise(names)]
    graph = helper.make_graph(nodes, "clock", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.full((128, 128), 1 / 128, np.float32)}
    counts = [0] * threads
    start = threading.Barrier(threads + 1)

    def multiply(place: int) -> None:
        start.wait()
        end = time.perf_counter() + _CLOCK_SECONDS
        while time.perf_counter() < end:
            session.run(None, feeds)
            counts[place] += 1

    running = [threading.Thread(target=multiply, args=(place,)) for place in range(threads)]
    for thread in running:
        thread.start()
    start.wait()
    for thread in running:
        thread.join()
    return sum(counts) / _CLOCK_SECONDS


def simulated(
    bundle: Path, dtype: str, texts: list[str], threads: int, costs: tuple[float, float], rounds: int
) -> tuple[float, float]:
    """Texts per second, and the share of the threads' time that is spent in the engine, in the best round."""
    embedder = Embedder(bundle, "cpu", dtype=dtype, threads=threads)
    runner = embedder.runners["default"]
    engine = Sleeping(runner.engine, threads, costs, embedder.get_embedding_dimension())
    runner.engine = runner._coalescer._engine = engine
    ready = Ready(runner.tokenize, threads)
    runner.tokenize.encode = ready.encode  # type: ignore[method-assign]
    found = []
    for _ in range(rounds):
        characters = _CHARACTERS_PER_WORKER * max(2, threads)
        for portion in runner.tokenize.portions(texts, "", size=characters, most=_SLICE):
            ready.prepare(portion)
        engine.seconds.clear()
        start = time.perf_counter()
        embedder.encode(texts)
        seconds = time.perf_counter() - start
        found.append((len(texts) / seconds, sum(engine.seconds) / threads / seconds))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=4096, help="texts of a call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", help="numbers of cores, such as 1,8,64 [default: 1, 2, 4 and so on, and all]")
    parser.add_argument("--simulated", default="16,64,128", help="more numbers of cores for the engine that sleeps")
    parser.add_argument("--only", default="threads,processes,clock,simulated", help="some of the ways")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.bundle, options.dtype, options.serve)
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(available_threads()))
    most = available_threads()
    counts = [1 << i for i in range(most.bit_length()) if 1 << i < most] + [most]
    counts = [int(count) for count in options.threads.split(",")] if options.threads else counts
    corpus = load_corpus()
    texts = (corpus.texts * (options.texts // len(corpus.texts) + 1))[: options.texts]
    print(f"{cpu_model()[0]}, {most} cores, {len(numa.nodes()) or 1} NUMA nodes")
    print(f"{options.dtype}, {len(texts)} texts of {corpus.origin}")
    costs = costs_of(Embedder(options.bundle, "cpu", dtype=options.dtype, threads=1), texts[:_CALIBRATION])
    print(f"one core: {costs[0] * 1e6:.0f} us for a run and {costs[1] * 1e6:.1f} us for a token")
    ways: dict[str, Callable[[int], float]] = {
        "threads": lambda n: by_threads(options.bundle, options.dtype, texts, n, options.rounds),
        "processes": lambda n: by_processes(options.bundle, options.dtype, texts, cores[:n], options.rounds),
        "clock": by_clock,
    }
    for name in options.only.split(","):
        if name == "simulated":
            for n in sorted({*counts, *(int(count) for count in options.simulated.split(",") if count)}):
                found, share = simulated(options.bundle, options.dtype, texts, n, costs, options.rounds)
                print(f"{name:10} {n:4}  {found:9.1f} per second  {share:6.1%} of the time of {n} threads", flush=True)
            continue
        first: float | None = None
        for n in counts:
            found = ways[name](n)
            first = found / n if first is None else first
            print(f"{name:10} {n:4}  {found:9.1f} per second  {found / n / first:6.1%} of {n} x the first", flush=True)


if __name__ == "__main__":
    main()

"""One engine in a process of its own: reads requests from standard input, answers on standard output, a line each.

Run by `benchmarks.process`, as `python -m benchmarks.worker ENGINE PROCESSORS MODEL BUNDLE PREPARED`. Nothing but the
engine is imported beyond what every engine needs, so that the time to the first vector and the memory are its own.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ENGINES
from benchmarks.peers import Files, Loaded

Answer = dict[str, Any]
Task = Callable[..., Answer]


def main() -> None:
    """Serves one engine."""
    name, cores, model, bundle, prepared = sys.argv[1:]
    if cores != "all":
        restrict(int(cores))

    def load() -> dict[str, Task]:
        engine = ENGINES[name].load(Files(Path(model), Path(bundle), Path(prepared)))
        return {
            "encode": lambda texts, save: _encode(engine, texts, save),
            "one_by_one": lambda texts: _one_by_one(engine, texts),
            "stream": lambda texts, repeat: _stream(engine, texts, repeat),
        }

    serve(load)


def serve(load: Callable[[], dict[str, Task]]) -> None:
    """Loads, then answers requests until there are no more. What fails is the last answer."""
    # Libraries print to standard output as they like; what they print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _be_killed_first()

    def answer(content: Answer) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        tasks = load()
        for line in sys.stdin.buffer:
            request = json.loads(line)
            done = tasks[request.pop("task")](**request)
            answer({**done, "process_cpu_seconds": time.process_time(), "peak_rss_mb": peak_rss_mb()})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        raise


def _encode(engine: Loaded, texts: list[str], save: str | None) -> Answer:
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = engine.encode(texts)
    answer = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    if save is not None:
        np.save(save, vectors)
    return answer


def _one_by_one(engine: Loaded, texts: list[str]) -> Answer:
    seconds = []
    for text in texts:
        start = time.perf_counter()
        engine.encode([text])
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def _stream(engine: Loaded, texts: list[str], repeat: int) -> Answer:
    """A stream of texts, over and over; no vector is kept."""
    assert engine.encode_iter is not None
    start = time.perf_counter()
    stream = itertools.chain.from_iterable(itertools.repeat(texts, repeat))
    count = sum(1 for _ in engine.encode_iter(stream))
    return {"seconds": time.perf_counter() - start, "texts": count}


def peak_rss_mb() -> float | None:
    """The most memory that was resident at once since the process began, in 10^6 bytes; None on Windows.

    Linux counts in `getrusage` what the parent held when it forked, so the number is taken from the address space.
    """
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def restrict(cores: int) -> None:
    """Keeps this process, and every thread that it will start, on so many of the cores that it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _be_killed_first() -> None:
    """Make Linux end the benchmark first when memory runs out, not other programs."""
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()

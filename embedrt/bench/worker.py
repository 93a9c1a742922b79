"""One engine in a process of its own: reads requests from standard input, answers on standard output, a line each.

`process` runs it by its path, as `python -P embedrt/bench/worker.py JSON`. Nothing but the engine is imported beyond
numpy, so that the time to the first vector and the memory are the engine's own.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from embedrt.bench.peers import Loaded

Answer = dict[str, Any]
Task = Callable[..., Answer]


def main() -> None:
    """Serve one engine, or make a file for one."""
    # Behind everything else: a checkout that is not installed finds embedrt here.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    job = json.loads(sys.argv[1])
    peers = _beside("peers")
    model, bundle, prepared = (path and Path(path) for path in job["files"])
    files = peers.Files(model, bundle, prepared)
    if "make" in job:
        target = prepared / job["make"]
        partial = target.with_name(f"partial-{target.name}")
        if partial.is_dir():
            shutil.rmtree(partial)
        getattr(_beside(job["file"]), job["function"])(files, partial, **job["options"])
        partial.rename(target)
        return
    if job["cores"] is not None:
        restrict(job["cores"])

    def load() -> dict[str, Task]:
        engine = getattr(peers, job["load"])(files, **job["options"])
        return {
            "encode": lambda texts, save: _encode(engine, texts, save),
            "one_by_one": lambda texts: _one_by_one(engine, texts),
            "stream": lambda texts, repeat: _stream(engine, texts, repeat),
            "memory": lambda texts: _memory(engine, texts),
        }

    serve(load)


def _beside(name: str) -> Any:
    """A file of this folder as a module, without the package that it is part of."""
    spec = importlib.util.spec_from_file_location(f"_bench_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def serve(load: Callable[[], dict[str, Task]]) -> None:
    """Load, then answer requests until there are no more. What fails is the last answer."""
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


def _encode(engine: "Loaded", texts: list[str], save: str | None) -> Answer:
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = engine.encode(texts)
    answer = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    if save is not None:
        np.save(save, vectors)
    return answer


def _one_by_one(engine: "Loaded", texts: list[str]) -> Answer:
    seconds = []
    for text in texts:
        start = time.perf_counter()
        engine.encode([text])
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def _stream(engine: "Loaded", texts: list[str], repeat: int) -> Answer:
    """Encode a stream of texts, over and over; no vector is kept."""
    assert engine.encode_iter is not None
    start = time.perf_counter()
    stream = itertools.chain.from_iterable(itertools.repeat(texts, repeat))
    count = sum(1 for _ in engine.encode_iter(stream))
    return {"seconds": time.perf_counter() - start, "texts": count}


def _memory(engine: "Loaded", texts: list[str]) -> Answer:
    """Encode texts, and measure the memory that they take on top of what is resident before.

    The peak so far may be that of loading, so it is reset, which Linux can.
    """
    before = rss_mb()
    reset_peak()
    start = time.perf_counter()
    vectors = engine.encode(texts)
    seconds, peak = time.perf_counter() - start, peak_rss_mb()
    over = None if before is None or peak is None else peak - before
    return {"seconds": seconds, "over_rss_mb": over, "before_rss_mb": before, "vector": vectors[0].tolist()}


def peak_rss_mb() -> float | None:
    """The most memory that was resident at once since the process began, in 10^6 bytes; None on Windows.

    Linux counts in `getrusage` what the parent held when it forked, so the number is taken from the address space.
    """
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        return _status("VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def rss_mb() -> float | None:
    """Memory that is resident, in 10^6 bytes; None where that is not known."""
    return _status("VmRSS") if sys.platform == "linux" else None


def reset_peak() -> None:
    """Let the peak begin anew, where Linux allows it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may have a read-only /proc
            Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> float | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def restrict(cores: int) -> None:
    """Keep this process, and every thread that it will start, on so many of the cores that it may use."""
    os.sched_setaffinity(0, core_order(os.sched_getaffinity(0))[:cores])


def core_order(usable: set[int], system: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The logical CPUs, one of each core first: two that share a core are worth little more than one."""

    def rank(cpu: int) -> tuple[int, int]:
        try:
            listed = (system / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        except OSError:
            return 0, cpu
        siblings: list[int] = []
        for part in listed.strip().split(","):
            first, _, last = part.partition("-")
            siblings += range(int(first), int(last or first) + 1)
        return [sibling for sibling in siblings if sibling in usable].index(cpu), cpu

    return sorted(usable, key=rank)


def _be_killed_first() -> None:
    """Make Linux end the benchmark first when memory runs out, not other programs."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may have a read-only /proc
            Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()

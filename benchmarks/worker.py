"""One engine in a process of its own: reads requests from standard input, answers on standard output, a line each.

Run by `benchmarks.process`, as `python -m benchmarks.worker ENGINE MODEL_FOLDER BUNDLE`. Nothing but the engine is
imported beyond what every engine needs, so that the time to the first vector and the memory are the engine's own.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ENGINES, Encode

Answer = dict[str, Any]


def main() -> None:
    name, model, bundle = sys.argv[1:]
    # Libraries print to standard output as they like; what they print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _be_killed_first()

    def answer(content: Answer) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        encode = ENGINES[name].load(Path(model), Path(bundle))
        for line in sys.stdin.buffer:
            request = json.loads(line)
            done = TASKS[request.pop("task")](encode, **request)
            answer({**done, "process_cpu_seconds": time.process_time(), "peak_rss_mb": peak_rss_mb()})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        raise


def _encode(encode: Encode, texts: list[str], save: str | None) -> Answer:
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = encode(texts)
    answer = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    if save is not None:
        np.save(save, vectors)
    return answer


def _one_by_one(encode: Encode, texts: list[str]) -> Answer:
    seconds = []
    for text in texts:
        start = time.perf_counter()
        encode([text])
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


TASKS: dict[str, Callable[..., Answer]] = {"encode": _encode, "one_by_one": _one_by_one}


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


def _be_killed_first() -> None:
    """Where memory runs out, Linux shall end the benchmark and not what else runs on the machine."""
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()

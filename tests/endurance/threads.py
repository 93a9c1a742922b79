"""Many threads over one model: right vectors throughout, and memory that does not grow.

    python -m tests.endurance.threads BUNDLE --threads 32 --seconds 60

Calls with lists that take several batches have the same batch shapes each time, so their vectors are compared bit for
bit. Small calls may share batches with those of other threads, and are compared within the stated bound. Memory is
compared between the middle and the end of the run. A second, short run leaks on purpose, and must be caught.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt_export.proof.texts import parity_texts

BOUND = 2e-6
"""Largest difference of a coordinate between batches."""
GROWTH_MB = 16.0
"""Largest growth of the resident memory from the middle of a run to its end."""
_CONTROL_S = 4.0
_WARM_UP = 0.1  # share of a run after which memory is measured


@dataclass
class Outcome:
    """One run.

    Attributes:
        small: Calls with one to three texts.
        bulk: Calls with lists of several batches.
        largest: Largest difference of a coordinate in a small call.
        wrong: Descriptions of wrong results and of errors.
        samples: Time since the start, as a share of the run, and resident memory in MB.
    """

    small: int = 0
    bulk: int = 0
    largest: float = 0.0
    wrong: list[str] = field(default_factory=list)
    samples: list[tuple[float, float]] = field(default_factory=list)

    @property
    def growth_mb(self) -> float:
        """Growth of the resident memory between the middle and the end."""

        def around(low: float, high: float) -> float:
            return statistics.median(memory for share, memory in self.samples if low <= share <= high)

        return around(0.9, 1.1) - around(0.45, 0.55)

    @property
    def grows(self) -> bool:
        """True if memory grew beyond the bound."""
        return self.growth_mb > GROWTH_MB


def resident_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_threads(model: Embedder, threads: int, seconds: float, *, leak: bool = False) -> Outcome:
    """Encode from many threads, and compare every result.

    Args:
        model: The model.
        threads: Number of threads.
        seconds: Length of the run.
        leak: True to keep more and more memory, for the control.
    """
    texts = parity_texts(model.max_seq_length)
    lists = [texts[start:] + texts[:start] * 4 for start in range(0, 12, 4)]
    alone = np.stack([model.encode(text) for text in texts])
    expected = [model.encode(items) for items in lists]
    outcome, lock, kept = Outcome(), threading.Lock(), [b""]
    began = time.perf_counter()

    def share() -> float:
        return (time.perf_counter() - began) / seconds

    def small(random: Random) -> tuple[float, str]:
        chosen = random.sample(range(len(texts)), random.randint(1, 3))
        single = len(chosen) == 1 and random.random() < 0.5
        vectors: NDArray[np.float32] = np.atleast_2d(
            model.encode(texts[chosen[0]] if single else [texts[i] for i in chosen])
        )
        error = float(np.abs(vectors - alone[chosen]).max())
        return error, "" if error <= BOUND else f"texts {chosen}: {error} from the vectors alone"

    def bulk(random: Random) -> str:
        i = random.randrange(len(lists))
        same = np.array_equal(model.encode(lists[i]), expected[i])
        return "" if same else f"list {i}: other bits than the first time"

    def work(seed: int) -> None:
        random = Random(seed)
        while share() < 1:
            is_bulk = random.random() < 0.1
            try:
                error, told = (0.0, bulk(random)) if is_bulk else small(random)
            except Exception as problem:  # noqa: BLE001 - whatever comes out of a call is reported
                error, told = 0.0, repr(problem)
            with lock:
                outcome.bulk += is_bulk
                outcome.small += not is_bulk
                outcome.largest = max(outcome.largest, error)
                if told:
                    outcome.wrong.append(told)
                if leak:
                    more = int(8 * GROWTH_MB * 2**20 * share()) - sum(map(len, kept))
                    kept.append(b"x" * max(more, 0))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    pause = threading.Event()
    while any(worker.is_alive() for worker in workers):
        outcome.samples.append((share(), resident_mb()))
        pause.wait(seconds / 200)
    for worker in workers:
        worker.join()
    outcome.samples.append((1.0, resident_mb()))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description="Encode from many threads.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    failed = False
    with Embedder(arguments.bundle, device="cpu") as model:
        run_threads(model, arguments.threads, arguments.seconds * _WARM_UP)
        run = run_threads(model, arguments.threads, arguments.seconds)
        control = run_threads(model, arguments.threads, min(_CONTROL_S, arguments.seconds), leak=True)
    print(f"{run.small} small calls, largest difference {run.largest:.1e} (bound {BOUND:.0e})")
    print(f"{run.bulk} bulk calls, bit for bit; {len(run.wrong)} wrong")
    print(f"{run.growth_mb:+.1f} MB from the middle to the end (bound {GROWTH_MB:.0f})")
    print(f"{control.growth_mb:+.1f} MB in the leaking control")
    for told in run.wrong[:5]:
        print(told)
    if run.wrong or run.grows:
        failed = True
    if not control.grows:
        print("the check of memory does not see a leak")
        failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

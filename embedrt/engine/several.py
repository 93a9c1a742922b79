"""Several devices of one kind that share the batches of a model in one process."""

from collections.abc import Mapping, Sequence
from itertools import count
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch, Engine


class SeveralEngines:
    """Engines with the same graph, each of which takes the next batch when it is free.

    Whichever device computes a batch, its vectors are the same. Callers bring batches in the order of their plan,
    longest first, on as many threads as there are workers; so a slow device gets fewer of them.

    Attributes:
        device: The first of the devices, which are of one kind.
        threads: CPU threads of each engine.

    Args:
        engines: The engines, each on a device of its own.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.device = engines[0].device
        self.threads = engines[0].threads
        self._engines = engines
        self._turn = count()
        # One entry for each worker that is free. A queue of C code: an interrupt cannot break it. One at the wrong
        # moment loses an entry; callers that find none take the engines in turn.
        self._free: SimpleQueue[Engine] = SimpleQueue()
        for place in range(max(engine.workers for engine in engines)):
            for engine in engines:
                if place < engine.workers:
                    self._free.put(engine)

    @property
    def workers(self) -> int:
        """The workers of all engines."""
        return sum(engine.workers for engine in self._engines)

    @property
    def description(self) -> str:
        """The first engine, and the names of all devices."""
        names = ", ".join(engine.device.name for engine in self._engines)
        return f"{self._engines[0].description} ({names})"

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Compute some outputs of the graph on a device that is free, else on the next in turn.

        Raises:
            OutOfMemory: The batch does not fit into the device's memory.
            EngineError: The engine failed.
        """
        free: Engine | None = None
        try:
            try:
                free = self._free.get_nowait()
                engine = free
            except Empty:
                engine = self._engines[next(self._turn) % len(self._engines)]
            return engine.run(batch, outputs)
        finally:
            if free is not None:
                self._free.put(free)

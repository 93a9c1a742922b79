"""An engine for devices that compile a graph for one shape of batch: a few shapes, each with a session of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch, Device, Engine
from embedrt.engine.session import onnxruntime

# Rows are filled up to the next of these numbers; a batch with more than the last is run in parts.
_ROWS = (1, 8, 32)
# Sessions that are kept; each has the weights once more.
_KEPT = 8


class StaticShapes:
    """One graph on one device, compiled for each of a few shapes on first use; runs one batch at a time.

    Batches come with one of few lengths, see `Device.length_step`. Rows are filled up here.

    Attributes:
        device: The device.
        threads: CPU threads of each session.
        workers: Threads that should call `run` at once.

    Args:
        device: The device, without a shape.
        threads: CPU threads to use.
        make: Makes the engine of a device with a shape.
    """

    workers = 1

    def __init__(self, device: Device, threads: int, make: Callable[[Device], Engine]) -> None:
        self.device = device
        self.threads = threads
        self._make = make
        self._engines: dict[tuple[int, int], Engine] = {}
        self._lock = RLock()  # a signal handler may encode meanwhile

    @property
    def description(self) -> str:
        """Engine, version and execution provider, as reports name it."""
        return f"onnxruntime {onnxruntime().__version__} {self.device.provider} on {self.device.name}"

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Compute some outputs of the graph, by name.

        Raises:
            OutOfMemory: The batch does not fit into the device's memory.
            EngineError: The engine failed.
            DeviceError: The graph could not be compiled for the shape.
        """
        rows, length = batch.shape
        parts = [self._part(batch, start, length, outputs) for start in range(0, rows, _ROWS[-1])]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    def _part(self, batch: Batch, start: int, length: int, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Compute the outputs of the rows from `start` on, as many as one run takes."""
        feeds = {name: array[start : start + _ROWS[-1]] for name, array in batch.feeds.items()}
        rows = len(feeds["input_ids"])
        shape = (rounded_rows(rows), length)
        filled = replace(batch, feeds={name: fill(array, shape[0]) for name, array in feeds.items()})
        with self._lock:
            results = self._engine(shape).run(filled, outputs)
        return {name: result[:rows] for name, result in results.items()}

    def _engine(self, shape: tuple[int, int]) -> Engine:
        """The engine of a shape; those that were used last are kept."""
        engine = self._engines.pop(shape, None)
        while len(self._engines) >= _KEPT:
            del self._engines[next(iter(self._engines))]
        self._engines[shape] = self._make(replace(self.device, shape=shape)) if engine is None else engine
        return self._engines[shape]


def rounded_rows(rows: int) -> int:
    """Round a number of rows of one run up to one of few."""
    return next(most for most in _ROWS if rows <= most)


def fill(array: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Repeat the last row up to a number of rows; a row of padding alone would give NaN."""
    return np.pad(array, ((0, rows - len(array)), (0, 0)), mode="edge")

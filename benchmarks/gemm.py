"""Rate of float32 matrix multiplication in ONNX Runtime on this machine, at the shapes of a model.

A process of its own, `python -m benchmarks.gemm LAYERS HIDDEN INNER`, that answers requests as engines do.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.models import Shape
from embedrt.bench.worker import Answer, Task, serve
from embedrt.engine.machine import available_threads

_ROWS = 512  # tokens of a batch, as embedrt plans them on a CPU
_SLICE_SECONDS = 0.25
SECONDS = 1.5
"""For each way to multiply, of a measurement; some of the slices of that time are undisturbed."""


@dataclass
class Gemm:
    """Rate of float32 matrix multiplication at the shapes of the model.

    Attributes:
        one: GFLOP/s on one core, by round of the mixed workload.
        all: The same on all that may be used.
        other_cores: As in `Run`.
    """

    one: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    other_cores: list[float | None] = field(default_factory=list)


def main() -> None:
    """Serves."""
    shape = Shape(*map(int, sys.argv[1:]))

    def load() -> dict[str, Task]:
        return {"gemm": _Rate(shape).measure}

    serve(load)


def products(shape: Shape) -> list[tuple[int, int]]:
    """Width before and after every matrix product of a layer whose second factor are weights."""
    attention = [(shape.hidden, shape.hidden)] * 4
    return [*attention, (shape.hidden, shape.inner), (shape.inner, shape.hidden)]


class _Rate:
    """Two layers' products one after the other, so that weights come from where they come from in a model."""

    def __init__(self, shape: Shape) -> None:
        self._widths = products(shape) * 2
        graph = _graph(self._widths)
        self._flops = 2 * _ROWS * sum(before * after for before, after in self._widths)
        self._threads = available_threads()
        self._narrow, self._wide = _session(graph, 1), _session(graph, self._threads)
        self._input = {"x": np.random.default_rng(0).standard_normal((_ROWS, shape.hidden), np.float32)}

    def measure(self, seconds: float) -> Answer:
        """The best rates within so many seconds for each way: with one core, with all inside one product, and with
        all on products of their own.
        """
        return {
            "one": self._best(self._narrow, 1, seconds),
            "all": max(self._best(self._wide, 1, seconds), self._best(self._narrow, self._threads, seconds)),
            "threads": self._threads,
        }

    def _best(self, session: Any, callers: int, seconds: float) -> float:
        """GFLOP/s of the best slice."""
        best, end = 0.0, time.perf_counter() + seconds
        with ThreadPoolExecutor(callers) as pool:
            while time.perf_counter() < end:
                start = time.perf_counter()
                until = start + _SLICE_SECONDS
                runs = sum(pool.map(partial(self._repeat, session), [until] * callers))
                best = max(best, runs * self._flops / (time.perf_counter() - start) / 1e9)
        return best

    def _repeat(self, session: Any, until: float) -> int:
        runs = 0
        while time.perf_counter() < until:
            session.run(["y"], self._input)
            runs += 1
        return runs


def _graph(widths: list[tuple[int, int]]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for i, (before, after) in enumerate(widths):
        values = random.standard_normal((before, after), np.float32) / np.float32(before**0.5)
        weights.append(numpy_helper.from_array(values, f"w{i}"))
        weights.append(numpy_helper.from_array(np.zeros(after, np.float32), f"b{i}"))
        target = "y" if i == len(widths) - 1 else f"h{i}"
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [target]))
        name = target
    ends = (
        helper.make_tensor_value_info(end, TensorProto.FLOAT, [_ROWS, width])
        for end, width in (("x", widths[0][0]), ("y", widths[-1][1]))
    )
    first, last = ends
    graph = helper.make_graph(nodes, "products", [first], [last], weights)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def _session(graph: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()

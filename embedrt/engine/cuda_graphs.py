"""CUDA graphs: small packed batches, captured once and replayed with one call of the driver.

A CUDA graph has fixed addresses and shapes, so each batch is laid out in the smallest of a few shapes. ONNX Runtime
replays a graph only in the thread that captured it, which is a `OneThread`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Packing
from embedrt.engine import Batch
from embedrt.engine.native import call_native
from embedrt.engine.one_thread import OneThread
from embedrt.engine.scratch import ScratchMemory
from embedrt.engine.stream import INPUTS, LONGEST, Shape

TOKENS = (16, 32, 64, 128, 256, 512)
"""Numbers of tokens that graphs are captured for."""
ROWS = (1, 8)
"""Numbers of texts that graphs are captured for."""
# Numbers of 4 bytes between the addresses of two inputs: kernels read vectors from aligned addresses.
_ALIGNMENT = 64


def captured_shapes(packing: Packing) -> list[Shape]:
    """The shapes to capture, smallest first."""
    step = packing.length_step
    return [Shape(tokens, rows, -(-tokens // step) * step) for tokens in TOKENS for rows in ROWS]


@dataclass(frozen=True, eq=False)
class Staging:
    """The inputs of one shape in one piece of memory, which takes one copy to the device.

    Attributes:
        numbers: The memory, int32; inputs of other dtypes have their bytes in it.
        starts: The place of each input in it.
        inputs: The inputs as arrays over the memory.
    """

    numbers: NDArray[np.int32]
    starts: Mapping[str, int]
    inputs: Mapping[str, NDArray[Any]]


def stage(names: Sequence[str], shape: Shape) -> Staging:
    """Lay out the inputs of a shape, filled in as for one text that has all tokens."""
    sizes = {name: INPUTS[name].sizes(shape) for name in names}
    starts, total = {}, 0
    for name, size in sizes.items():
        starts[name] = total
        total += -(-int(np.prod(size)) // _ALIGNMENT) * _ALIGNMENT
    numbers = np.zeros(total, np.int32)
    inputs: dict[str, NDArray[Any]] = {}
    for name, size in sizes.items():
        memory = numbers[starts[name] : starts[name] + int(np.prod(size))]
        inputs[name] = memory.view(INPUTS[name].dtype).reshape(size)
        if (make := INPUTS[name].make) is not None:
            inputs[name][...] = make(shape)
    if "starts" in inputs:
        inputs["starts"][1:] = shape.tokens
    return Staging(numbers, starts, inputs)


@dataclass(frozen=True, eq=False)
class _Graph:
    """One captured graph.

    Attributes:
        binding: The addresses of its inputs and outputs.
        options: The run options that select it.
        numbers: Its inputs in host memory.
        inputs: Those that depend on the texts.
        device: Its inputs in device memory.
        outputs: Its outputs in device memory.
    """

    binding: Any
    options: Any
    numbers: NDArray[np.int32]
    inputs: Mapping[str, NDArray[Any]]
    device: Any
    outputs: Mapping[str, Any]

    def fits(self, batch: Batch) -> bool:
        """Return True if a batch can be laid out in the graph's shape."""
        return all(
            size <= most
            for name, array in self.inputs.items()
            for size, most in zip(batch.feeds[name].shape, array.shape, strict=True)
        )

    def replay(self, session: Any, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Compute outputs of a batch."""
        for name, array in self.inputs.items():
            INPUTS[name].write(array, batch.feeds[name])
        call_native(self.device.update_inplace, self.numbers)
        call_native(session.run_with_iobinding, self.binding, self.options)
        rows = batch.shape[0]
        return {name: call_native(self.outputs[name].numpy)[:rows].copy() for name in outputs}


@dataclass(frozen=True)
class Capture:
    """The capture of a session's graphs.

    Attributes:
        ort: The module onnxruntime.
        session: A session with CUDA graphs, which runs nothing else.
        device: ONNX Runtime's name of the kind of device, such as "cuda".
        index: The index of the device.
        packing: The inputs of the graph.
        dtype: Its dtype.
        outputs: The widths of the outputs with an entry for every row, by name.
    """

    ort: ModuleType
    session: Any
    device: str
    index: int
    packing: Packing
    dtype: str
    outputs: Mapping[str, int]

    def graphs(self) -> list[_Graph]:
        """Capture a graph for every shape, smallest first.

        Raises:
            NativeError: A graph cannot be captured.
        """
        shapes = captured_shapes(self.packing)
        scratch = None
        if self.packing.scratch is not None:  # one for all, since one graph runs at a time
            scratch = ScratchMemory(self.ort, self.device, self.index, self.packing.scratch, self.dtype)
        graphs = [self._graph(number, shapes[number], scratch) for number in reversed(range(len(shapes)))]
        return graphs[::-1]

    def _graph(self, number: int, shape: Shape, scratch: ScratchMemory | None) -> _Graph:
        make, device, index = self.ort.OrtValue, self.device, self.index
        names = [name for name in INPUTS if name in self.packing.inputs and name != LONGEST]
        staging = stage(names, shape)
        memory = call_native(make.ortvalue_from_numpy, staging.numbers, device, index)
        binding = self.session.io_binding()
        for name in names:
            array = staging.inputs[name]
            address = memory.data_ptr() + staging.numbers.itemsize * staging.starts[name]
            binding.bind_input(name, device, index, array.dtype.type, array.shape, address)
        if LONGEST in self.packing.inputs:
            binding.bind_cpu_input(LONGEST, np.full(2, shape.longest, np.int32))
        if scratch is not None:
            scratch.bind(binding, shape.rows * shape.blocks)
        outputs = {
            name: call_native(make.ortvalue_from_shape_and_type, [shape.rows, width], np.float32, device, index)
            for name, width in self.outputs.items()
        }
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = self.ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number + 1))
        call_native(self.session.run_with_iobinding, binding, options)  # the first run captures
        by_texts = {name: array for name, array in staging.inputs.items() if INPUTS[name].make is None}
        return _Graph(binding, options, staging.numbers, by_texts, memory, outputs)


class CudaGraphs:
    """The captured graphs of one session. Safe to use from many threads at once.

    Args:
        capture: How to capture them.

    Raises:
        NativeError: A graph cannot be captured.
    """

    def __init__(self, capture: Capture) -> None:
        self._session = capture.session
        self._outputs = frozenset(capture.outputs)
        self._thread = OneThread()
        self._graphs = self._thread.call(capture.graphs)

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]] | None:
        """Compute outputs of a batch; None if no graph has its shape and these outputs.

        Raises:
            NativeError: ONNX Runtime failed.
        """
        if not self._outputs.issuperset(outputs):
            return None
        graph = next((graph for graph in self._graphs if graph.fits(batch)), None)
        return None if graph is None else self._thread.call(partial(graph.replay, self._session, batch, outputs))

"""Packed graphs on ONNX Runtime's CUDA provider: attention kernels by length, scratch memory, and CUDA graphs."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Packing, Scratch
from embedrt.engine import PER_TOKEN, Batch, Device, Providers, cuda_setup
from embedrt.engine.cuda_graphs import TOKENS, Capture, CudaGraphs
from embedrt.engine.faults import Faults
from embedrt.engine.machine import require_process
from embedrt.engine.native import NativeError, call_native, is_ending
from embedrt.engine.outputs import in_bfloat16, named, run_bound
from embedrt.engine.placement import Placement
from embedrt.engine.scratch import ScratchMemory
from embedrt.engine.session import CREATING, Interface, Load, create_session, onnxruntime, run_options
from embedrt.engine.stream import Shape, laid_out, shape_of

logger = logging.getLogger("embedrt")

# Below this size, weights are held several times in device memory, for kernels and CUDA graphs of their own.
SMALL_BYTES = 500_000_000
# What a run fails with while another thread captures a CUDA graph.
_CAPTURING = re.compile(r"StreamCapture|captur|CUDA (failure|error):? 90\d\b", re.IGNORECASE)


@dataclass(frozen=True)
class Kernels:
    """The attention kernels of one session.

    Attributes:
        name: Their name in reports.
        sdpa_kernel: The provider option that allows them: the sum of 1 for flash attention, 2 for memory-efficient
            attention and 16 for plain matmuls; 0 leaves the choice to ONNX Runtime.
        longest: The tokens of the longest text, up to which batches take them; None for any.
    """

    name: str
    sdpa_kernel: str
    longest: int | None = None


_FLASH = Kernels("flash attention", "19")
# On a GPU of compute capability 9.0 these are memory-efficient attention. An H100 ran MiniLM on texts of 17 tokens at
# 6.5 M tokens/s with them and at 5.1 M with flash attention, on texts of 89 tokens at 7.9 M and 8.8 M (batches of 16k
# tokens). The limit lies between the two.
_SHORT = Kernels("ONNX Runtime's choice of attention", "0", longest=64)
_USUAL = Kernels("ONNX Runtime's choice of attention", "0")


@dataclass(frozen=True)
class Choice:
    """The kernels of a GPU and a graph.

    Attributes:
        capability: The lowest compute capability.
        below: The size of the weights, which is smaller; None for any.
        kernels: The kernels, each in a session of its own; those for short texts first.
    """

    capability: tuple[int, int]
    below: int | None
    kernels: tuple[Kernels, ...]


CHOICES = (
    Choice((9, 0), SMALL_BYTES, (_SHORT, _FLASH)),
    Choice((9, 0), None, (_FLASH,)),
    Choice((0, 0), None, (_USUAL,)),
)
"""The choices in order of preference."""


def choose_kernels(capability: tuple[int, int], weights_bytes: int, packing: Packing) -> tuple[Kernels, ...]:
    """The first choice that fits a GPU and the size of the weights.

    Attention over scratch memory is one operator with flash attention for every length, so it needs one session.
    """
    kernels = next(
        choice.kernels
        for choice in CHOICES
        if capability >= choice.capability and (choice.below is None or weights_bytes < choice.below)
    )
    return kernels if packing.scratch is None else kernels[-1:]


def rounded(shape: Shape) -> Shape:
    """Round the tokens of a batch up to one of few numbers.

    cuBLAS chooses its kernels by the number of rows: with few numbers, there are few choices to make, and a vector
    depends less on its batch. The attention operator wants no more tokens than its texts could have, so texts without
    tokens are added too.
    """
    step = 256 if shape.tokens <= 8192 else 512
    tokens = -(-shape.tokens // step) * step
    return replace(shape, tokens=tokens, rows=max(shape.rows, -(-tokens // shape.longest)))


class PackedCudaEngine:
    """One packed graph on one GPU.

    Args:
        graph: The ONNX file, for messages.
        device: The GPU.
        placement: The placement of its route.
        packing: The inputs of the graph.
        interface: The inputs and outputs that the graph must have.
        weights_bytes: Size of the graph's weights.
        load: Calls a function with the path to open the graph with.

    Raises:
        BundleError: The graph has another interface.
        DeviceError: The GPU is not available, or does not run the whole graph.
    """

    def __init__(
        self,
        graph: Path,
        device: Device,
        placement: Placement,
        packing: Packing,
        *,
        interface: Interface,
        weights_bytes: int,
        load: Load,
    ) -> None:
        self.device = device
        self.threads = placement.threads
        self._dtype = placement.variant.dtype
        self._packing = packing
        self._process = os.getpid()
        self._faults = Faults(device)
        self._index = int(device.at or 0)
        self._scratch: list[ScratchMemory] = []  # of threads that run no batch
        self._kernels = choose_kernels(compute_capability(self._index), weights_bytes, packing)
        new_session = partial(
            create_session, graph, self.device, 1, dtype=placement.dtype, interface=interface, load=load
        )
        with CREATING:
            self._sessions = [new_session(adjust=partial(_adjusted, kernels)) for kernels in self._kernels]
            self._graphs: CudaGraphs | None = None
            if weights_bytes < SMALL_BYTES:
                session = new_session(adjust=partial(_adjusted, self._kernels[-1], more={"enable_cuda_graph": "1"}))
                self._graphs = self._captured(graph, session, interface)
        self._in_bfloat16 = in_bfloat16(self._sessions[0])

    def _captured(self, graph: Path, session: Any, interface: Interface) -> CudaGraphs | None:
        outputs = {name: width for name, width in interface.outputs.items() if name not in PER_TOKEN}
        capture = Capture(onnxruntime(), session, self.device.kind, self._index, self._packing, self._dtype, outputs)
        try:
            return CudaGraphs(capture)
        except NativeError as failure:
            logger.warning("%s: small calls take longer, because no CUDA graph can be captured: %s", graph, failure)
            return None

    @property
    def workers(self) -> int:
        """See `Engine`."""
        return self.device.workers

    @property
    def description(self) -> str:
        """See `Engine`."""
        parts = [
            kernels.name if kernels.longest is None else f"{kernels.name} up to {kernels.longest} tokens"
            for kernels in self._kernels
        ]
        if self._graphs is not None:
            parts.append(f"CUDA graphs up to {TOKENS[-1]} tokens")
        return f"onnxruntime {onnxruntime().__version__} {self.device.provider}, packed: {', '.join(parts)}"

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """See `Engine`."""
        require_process(self._process)
        self._faults.require_usable()
        try:
            try:
                return self._run(batch, outputs)
            except NativeError as failure:
                if not _CAPTURING.search(str(failure)):
                    raise
            with CREATING:  # until no other thread captures
                pass
            return self._run(batch, outputs)
        except NativeError as failure:
            raise self._faults.error(failure, batch) from failure.__cause__

    def _run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        # At the end of the process, the thread of the graphs is kept from native code.
        if self._graphs is not None and batch.alone and not is_ending():
            results = self._graphs.run(batch, outputs)
            if results is not None:
                return results
        longest = batch.shape[1]
        session = next(
            session
            for kernels, session in zip(self._kernels, self._sessions, strict=True)
            if kernels.longest is None or longest <= kernels.longest
        )
        shape = rounded(shape_of(batch))
        feeds = laid_out(batch.feeds, shape)
        options = run_options(self._faults.run_config())
        if self._packing.scratch is not None:
            results = self._run_with_scratch(session, outputs, feeds, options, self._packing.scratch, shape)
        elif self._in_bfloat16.isdisjoint(outputs):
            results = named(outputs, call_native(session.run, list(outputs), feeds, options))
        else:
            results = run_bound(session, session.io_binding(), outputs, feeds, options)
        rows = batch.shape[0]
        return {name: array if name in PER_TOKEN else array[:rows] for name, array in results.items()}

    def _run_with_scratch(
        self,
        session: Any,
        outputs: Sequence[str],
        feeds: Mapping[str, NDArray[Any]],
        options: Any,
        of_text: Scratch,
        shape: Shape,
    ) -> dict[str, NDArray[np.float32]]:
        try:
            memory = self._scratch.pop()  # which no other run uses
        except IndexError:
            memory = ScratchMemory(onnxruntime(), self.device.kind, self._index, of_text, self._dtype)
        try:
            binding = session.io_binding()
            memory.bind(binding, shape.rows * shape.blocks)
            return run_bound(session, binding, outputs, feeds, options)
        finally:
            self._scratch.append(memory)


def _adjusted(kernels: Kernels, options: Any, providers: Providers, more: Mapping[str, str] | None = None) -> Providers:
    """The CUDA provider alone: a packed graph has no node for a CPU."""
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    name, settings = providers[0]
    return [(name, {**settings, "sdpa_kernel": kernels.sdpa_kernel, **(more or {})})]


def compute_capability(index: int) -> tuple[int, int]:
    """The compute capability of a GPU, such as (9, 0); (0, 0) if it is unknown."""
    card = cuda_setup.card(index)
    return (0, 0) if card is None else card.capability

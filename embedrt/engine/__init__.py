"""Execution providers: from a batch to arrays. This file is the contract; every provider has a file of its own.

A new device is one new file that defines a `DEVICE`, and one entry in `engine/devices.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.types import MULTI_VECTOR, TOKENS

PER_TOKEN = frozenset({TOKENS, MULTI_VECTOR})
"""The outputs with an entry for every token of the batch; the others have one for every row."""


@dataclass(frozen=True)
class Batch:
    """The graph's inputs for some rows, padded or packed.

    Attributes:
        feeds: The inputs by name: int64 `[rows, longest]` if padded; if packed, as `embedrt.inputs.packing` makes them.
        alone: Whether this is the only batch, which may use all threads.
        spans: Start and end of every row in a packed stream of tokens, int64 `[rows, 2]`; None if padded.
        real: True for every token of a padded batch, `[rows, longest]`; None if these are the ones of the attention
            mask.
    """

    feeds: Mapping[str, NDArray[Any]]
    alone: bool = False
    spans: NDArray[np.int64] | None = None
    real: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the tokens of the longest row."""
        if self.spans is not None:
            return len(self.spans), int((self.spans[:, 1] - self.spans[:, 0]).max(initial=0))
        rows, length = self.feeds["input_ids"].shape
        return rows, length

    @property
    def tokens(self) -> int:
        """Tokens to compute, padding included."""
        rows, length = self.shape
        return rows * length if self.spans is None else int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def of_row(self, array: NDArray[Any], row: int) -> NDArray[Any]:
        """Copy one row's part, without padding, of an array with an entry for every token of the batch."""
        if self.spans is not None:
            start, end = self.spans[row]
            return array[start:end].copy()
        taken = self.feeds["attention_mask"][row] == 1 if self.real is None else self.real[row]
        real: NDArray[Any] = array[row, taken]
        return real

    def part(self, start: int, end: int) -> "Batch":
        """The rows from `start` to `end`; if packed, as spans of the same stream."""
        if self.spans is not None:
            return replace(self, spans=self.spans[start:end])
        feeds = {name: array[start:end] for name, array in self.feeds.items()}
        return replace(self, feeds=feeds, real=None if self.real is None else self.real[start:end])

    def part_of(self, results: Mapping[str, NDArray[Any]], start: int, end: int) -> dict[str, NDArray[Any]]:
        """The outputs of the rows from `start` to `end`, for `part`."""
        return {
            name: array if self.spans is not None and name in PER_TOKEN else array[start:end]
            for name, array in results.items()
        }


Providers = list[tuple[str, dict[str, str]]]
"""Execution providers with their options, in order of preference."""

Configure = Callable[[Any, "Device", str, int], Providers]
"""Sets the options of a session: `configure(session_options, device, dtype, threads)`."""


@dataclass(frozen=True)
class Device:
    """A place where a graph runs.

    Attributes:
        kind: The name that users type and that a manifest's variants list.
        provider: ONNX Runtime's execution provider.
        configure: Sets the options of a session on the device.
        require: Raises a `DeviceError` where the device is not available; None asks ONNX Runtime for its provider.
        suffix: A pattern of what may follow the kind after a colon, such as the index in "cuda:1"; "" allows nothing.
        at: That suffix; None takes the device's first.
        first: The suffix of the device's first, where one is named by it.
        subkinds: More names that a manifest's variants may have for the device: of CPUs with certain kernels.
        operators: "onnxruntime" if the device also runs ONNX Runtime's own operators, else "portable".
        computes: The dtypes that the device computes in, each with the dtype of the variant that it takes; empty for a
            device that computes every variant in the variant's own dtype.
        token_budget: Tokens of one batch (`rows x longest`). Small on a CPU, where a batch should stay in the cache;
            large where a launch costs more than the arithmetic.
        token_budgets: Token budgets that `embedrt tune` tries; with them, the budget of packed batches follows the size
            of the model. Empty to try multiples of `token_budget`, which then suits every model.
        run_cost: Cost of a batch before its first token, in tokens; the planner weighs it against padding.
        parallel: Whether several threads run batches at once, each on one core.
        workers: Threads that run batches at once over the same session, if not `parallel`: a second one fills the
            device while the first one copies.
        cores_at: The suffixes with which the device computes on the machine's own cores, so that processes share them.
        compiles: Whether the device compiles a graph for every shape of batch; see `static_shapes`.
        shape: The rows and the length to compile for.
        graph: SHA-256 of the graph's files, by which a device keeps what it has compiled.
        largest_pair: The largest pair of the graph's int8 weights, on which the choice of kernels depends; see
            `Variant`.
        length_step: Batches are padded to multiples of this many tokens, which keeps an engine that compiles for
            every shape to few of them; see `planning.padded_length`.
        shrinks: ONNX Runtime's name of the memory arena that a run with a long text returns to the system, such as
            "cpu:0"; empty to keep it for the next run.
        limits_memory: Whether a limit can be set on the memory of the device.
        memory_limit: That limit in bytes; None sets none.
        memory: The bytes that a model may take on the device; None where batches need not fit.
        remedies: Patterns of the engine's own messages, each with what mends the failure.
    """

    kind: str
    provider: str
    configure: Configure
    require: "Callable[[Device], None] | None" = None
    suffix: str = ""
    at: str | None = None
    first: str = ""
    subkinds: tuple[str, ...] = ()
    operators: Literal["portable", "onnxruntime"] = "onnxruntime"
    computes: Mapping[str, str] = field(default_factory=dict)
    token_budget: int = 16384
    token_budgets: tuple[int, ...] = ()
    run_cost: int = 512
    parallel: bool = False
    workers: int = 1
    cores_at: tuple[str | None, ...] = ()
    compiles: bool = False
    shape: tuple[int, int] | None = None
    graph: str = ""
    largest_pair: int | None = None
    length_step: int = 1
    shrinks: str = ""
    limits_memory: bool = False
    memory_limit: int | None = None
    memory: "Callable[[Device], int | None] | None" = None
    remedies: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The device as users type it, such as "cuda:1"."""
        return self.kind if self.at is None else f"{self.kind}:{self.at}"

    @property
    def place(self) -> str:
        """The suffix that names the device: "cuda" is the first GPU."""
        return self.at or self.first

    @property
    def short_name(self) -> str:
        """The same for all names of a device: "cuda" for "cuda:0"."""
        return self.kind if self.place == self.first else self.name

    @property
    def uses_cores(self) -> bool:
        """True if the device computes on the machine's own cores."""
        return self.at in self.cores_at

    def with_suffix(self, at: str) -> "Device":
        """The same kind of device with another suffix."""
        return replace(self, at=at)

    def with_memory_limit(self, limit: int | None) -> "Device":
        """The same device with a limit on its memory; unchanged if it has no such limit."""
        return replace(self, memory_limit=limit) if self.limits_memory else self

    def with_remedy(self, message: str) -> str:
        """An engine's message, with what mends the failure where that is known."""
        found = [remedy for pattern, remedy in self.remedies.items() if re.search(pattern, message)]
        return "; ".join([message, *found[:1]])


class Engine(Protocol):
    """One graph on one device, safe to use from many threads at once.

    Attributes:
        device: The device.
        threads: CPU threads to use.
    """

    device: Device
    threads: int

    @property
    def workers(self) -> int:
        """Threads that should call `run` at once with batches that are not alone."""
        ...

    @property
    def description(self) -> str:
        """Engine, version and execution provider, as reports name it."""
        ...

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Compute some outputs of the graph, by name.

        Args:
            batch: The graph's inputs.
            outputs: Names of the graph's outputs, such as "sentence_embedding" `[rows, dim]` and "token_embeddings"
                `[rows, longest, width]`; a packed graph has `[tokens, width]`, with more rows than tokens.

        Raises:
            OutOfMemory: The batch does not fit into the device's memory.
            EngineError: The engine failed.
        """
        ...

"""Plain graph outputs of any task as a matrix, for proofs and measurements: no activation, no prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import KIND_OF_TASK, NAME_OF_KIND
from embedrt.engine import PER_TOKEN, Batch
from embedrt.inputs.templates import reading_of
from embedrt.inputs.text import Tokens
from embedrt.run.request import Reading, Request
from embedrt.run.runner import Runner
from embedrt.types import Task, Vectors


@dataclass(frozen=True)
class OutputRows:
    """Collector of an output with one row per item: float32 `[items, width]`.

    Attributes:
        output: The output's name.
        width: Its width.
    """

    output: str
    width: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (self.output,)

    def start(self, count: int) -> Vectors:
        """See `Gather`."""
        return np.empty((count, self.width), np.float32)

    def keep(
        self, values: Vectors, rows: NDArray[np.int64], batch: Batch, results: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """See `Gather`."""
        values[rows] = results[self.output]


@dataclass(frozen=True)
class TokenRows:
    """Collector of an output with one vector per token: float32 `[tokens x width]` per item.

    Attributes:
        output: The output's name.
    """

    output: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (self.output,)

    def start(self, count: int) -> list[Vectors]:
        """See `Gather`."""
        return [np.empty(0, np.float32)] * count

    def keep(
        self, values: list[Vectors], rows: NDArray[np.int64], batch: Batch, results: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """See `Gather`."""
        for i, row in enumerate(rows.tolist()):
            values[row] = batch.of_row(results[self.output], i).reshape(-1)


_READINGS: dict[Task, Callable[[Runner], Reading | None]] = {"score": lambda runner: reading_of(runner.route)}
"""The way to tokenize the items of tasks whose items are not plain texts."""


def output_of(runner: Runner) -> str:
    """The name of the output that a model of the runner's task is for."""
    return NAME_OF_KIND[KIND_OF_TASK[runner.task]]


def width_of(runner: Runner) -> int:
    """The width of that output: of one vector."""
    return runner.route.outputs[output_of(runner)].width


def request_for(runner: Runner) -> Request:
    """The request that computes graph values."""
    reading = _READINGS[runner.task](runner) if runner.task in _READINGS else None
    output = output_of(runner)
    gather = TokenRows(output) if output in PER_TOKEN else OutputRows(output, width_of(runner))
    return Request(gather, runner.route.max_seq_length, reading=reading)


def graph_tokens(runner: Runner, items: Sequence[Any]) -> Tokens:
    """The tokens of items, as the graph reads them."""
    return runner.tokens(items, request_for(runner))


def graph_values(runner: Runner, items: Sequence[Any]) -> Vectors:
    """Compute graph values in planned batches.

    Args:
        runner: The route.
        items: Texts; for a model that scores pairs, pairs.

    Returns:
        float32 `[items, n]`: whole vectors, logits, or weights of the whole vocabulary; of a multi-vector model, the
        vectors of all tokens of each text one after the other, with zeros behind those of shorter texts.
    """
    return _matrix(runner.run(items, request_for(runner)).values)


def graph_values_in_one_batch(runner: Runner, items: Sequence[Any]) -> Vectors:
    """Compute graph values in one batch, padded to the longest item."""
    return _matrix(runner.run_in_one_batch(items, request_for(runner)).values)


def _matrix(rows: Vectors | list[Vectors]) -> Vectors:
    if not isinstance(rows, list):
        return rows
    matrix = np.zeros((len(rows), max(map(len, rows), default=0)), np.float32)
    for values, row in zip(matrix, rows, strict=True):
        values[: len(row)] = row
    return matrix

"""Embeddings: what becomes of the graph's arrays, from a batch's outputs to the vectors that a call returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch
from embedrt.run.request import Request, Result, Run
from embedrt.run.runner import Runner
from embedrt.tasks.call import Call
from embedrt.types import SENTENCE, TOKENS, Features, Vectors
from embedrt.vectors.arrays import SMALLEST_NORM
from embedrt.vectors.quantization import quantize_embeddings

_Results: TypeAlias = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SentenceVectors:
    """Gathers sentence embeddings: float32 `[texts, dim]`.

    Attributes:
        dim: Coordinates to keep.
        normalize: Scale the vectors to length 1, after truncation.
    """

    dim: int
    normalize: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """As `Gather` has it."""
        return (SENTENCE,)

    def start(self, count: int) -> Vectors:
        """As `Gather` has it."""
        return np.empty((count, self.dim), np.float32)

    def keep(self, values: Vectors, rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """As `Gather` has it."""
        values[rows] = finished(results[SENTENCE], self.dim, normalize=self.normalize)


@dataclass(frozen=True)
class TokenVectors:
    """Gathers token embeddings: for each text float32 `[tokens, hidden]`, without padding."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """As `Gather` has it."""
        return (TOKENS,)

    def start(self, count: int) -> list[Vectors | None]:
        """As `Gather` has it."""
        return [None] * count

    def keep(self, values: list[Vectors], rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """As `Gather` has it."""
        real = batch.feeds["attention_mask"] == 1
        for i, row in enumerate(rows):
            values[row] = results[TOKENS][i, real[i]]


@dataclass(frozen=True)
class AllFeatures:
    """Gathers everything that the graph takes and gives: for each text a dict of arrays, without padding.

    Attributes:
        dim: Coordinates of the sentence embedding to keep.
    """

    dim: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """As `Gather` has it."""
        return (TOKENS, SENTENCE)

    def start(self, count: int) -> list[Features]:
        """As `Gather` has it."""
        return [{} for _ in range(count)]

    def keep(self, values: list[Features], rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """As `Gather` has it."""
        real = batch.feeds["attention_mask"] == 1
        by_token: dict[str, NDArray[Any]] = {**batch.feeds, TOKENS: results[TOKENS]}
        for i, row in enumerate(rows):
            values[row].update({name: array[i, real[i]] for name, array in by_token.items()})
            values[row][SENTENCE] = results[SENTENCE][i, : self.dim].copy()


def embed(run: Run, texts: list[str], call: Call) -> Result:
    """Computes the embeddings of a validated call.

    Args:
        run: Where they are computed.
        texts: The texts, without the prompt.
        call: The call.

    Returns:
        Vectors in the type that the call stores them in, or a list of arrays or dicts, one for each text.
    """
    result = run(texts, request_of(call))
    return Result(stored(result.values, call), result.truncated)


def request_of(call: Call) -> Request:
    """The options of a run that computes a call's embeddings in float32."""
    gather: SentenceVectors | TokenVectors | AllFeatures = AllFeatures(call.dim)
    if call.output_value == SENTENCE:
        gather = SentenceVectors(call.dim, call.normalize)
    elif call.output_value == TOKENS:
        gather = TokenVectors()
    return Request(
        gather,
        call.max_seq_length,
        prompt=call.prompt,
        batch_size=call.batch_size,
        forbid_truncation=call.on_truncation == "error",
    )


def stored(values: Any, call: Call) -> Any:
    """Vectors in the type that a call stores them in; features as they are."""
    return values if call.precision == "float32" else quantize_embeddings(values, call.precision, call.ranges)


def finished(vectors: Vectors, dim: int, *, normalize: bool) -> Vectors:
    """Truncates vectors to `dim` coordinates, and then scales them to length 1 if asked to."""
    values: Vectors = vectors[..., :dim]
    if normalize:
        values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), SMALLEST_NORM)
    return values


def graph_vectors(runner: Runner, texts: Sequence[str]) -> Vectors:
    """The graph's own vectors of texts, in planned batches: float32 `[len(texts), dim]`."""
    vectors: Vectors = runner.run(texts, _plain(runner)).values
    return vectors


def graph_vectors_together(runner: Runner, texts: Sequence[str]) -> Vectors:
    """The graph's own vectors of texts, computed as one single batch: float32 `[len(texts), dim]`."""
    vectors: Vectors = runner.run_in_one_batch(texts, _plain(runner)).values
    return vectors


def _plain(runner: Runner) -> Request:
    return Request(SentenceVectors(runner.widths[SENTENCE]), runner.route.max_seq_length)

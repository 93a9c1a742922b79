"""Embeddings: graph outputs to the vectors that a call returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch
from embedrt.run.request import Request, Result, Run
from embedrt.tasks.call import Call
from embedrt.types import MULTI_VECTOR, SENTENCE, SPARSE, TOKENS, Features, Vectors
from embedrt.vectors.arrays import SMALLEST_NORM
from embedrt.vectors.quantization import quantize_embeddings, require_enough

_Results: TypeAlias = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SentenceVectors:
    """Collector of sentence embeddings: float32 `[texts, dim]`.

    Attributes:
        dim: Coordinates to keep.
        normalize: True to scale the vectors to length 1, after truncation.
    """

    dim: int
    normalize: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (SENTENCE,)

    def start(self, count: int) -> Vectors:
        """See `Gather`."""
        return np.empty((count, self.dim), np.float32)

    def keep(self, values: Vectors, rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """See `Gather`."""
        values[rows] = truncate_and_normalize(results[SENTENCE], self.dim, normalize=self.normalize)


@dataclass(frozen=True)
class TokenVectors:
    """Collector of token embeddings: float32 `[tokens, hidden]` per text, without padding."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (TOKENS,)

    def start(self, count: int) -> list[Vectors | None]:
        """See `Gather`."""
        return [None] * count

    def keep(self, values: list[Vectors], rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """See `Gather`."""
        for i, row in enumerate(rows):
            values[row] = batch.of_row(results[TOKENS], i)


@dataclass(frozen=True)
class AllFeatures:
    """Collector of all graph inputs and outputs: a dict of arrays per text, without padding.

    Attributes:
        dim: Coordinates of the sentence embedding to keep.
        more: Other outputs of the graph.
        skipped: Tokens at the start whose vectors of multi-vector embeddings do not count.
    """

    dim: int
    more: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (TOKENS, SENTENCE, *self.more)

    def start(self, count: int) -> list[Features]:
        """See `Gather`."""
        return [{} for _ in range(count)]

    def keep(self, values: list[Features], rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """See `Gather`."""
        by_token: dict[str, NDArray[Any]] = {**_token_inputs(batch), TOKENS: results[TOKENS]}
        for i, row in enumerate(rows):
            values[row].update({name: batch.of_row(array, i) for name, array in by_token.items()})
            values[row][SENTENCE] = results[SENTENCE][i, : self.dim].copy()
            if SPARSE in self.more:
                values[row][SPARSE] = results[SPARSE][i].copy()
            if MULTI_VECTOR in self.more:
                values[row][MULTI_VECTOR] = batch.of_row(results[MULTI_VECTOR], i)[self.skipped :]


def _token_inputs(batch: Batch) -> Mapping[str, NDArray[np.int64]]:
    """The inputs that a padded graph takes, with a number for every token of the batch."""
    if batch.spans is None:
        return batch.feeds
    ids = batch.feeds["input_ids"].astype(np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if "token_type_ids" in batch.feeds:
        inputs["token_type_ids"] = batch.feeds["token_type_ids"].astype(np.int64)
    return inputs


def embed(run: Run, texts: list[str], call: Call) -> Result:
    """Compute the embeddings of a validated call.

    Args:
        run: The `run` method of a runner or pool.
        texts: The texts, without the prompt.
        call: The call.

    Returns:
        Vectors in the call's precision, or a list with one array or dict per text.
    """
    measures = call.output_value == SENTENCE and call.precision in {"int8", "uint8"} and call.ranges is None
    if measures and texts:
        require_enough(len(texts))
    result = run(texts, request_of(call))
    return Result(stored(result.values, call), result.truncated)


def request_of(call: Call) -> Request:
    """The request that computes a call's embeddings in float32."""
    gather: SentenceVectors | TokenVectors | AllFeatures = AllFeatures(call.dim, call.more, call.skipped)
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
    """Quantize vectors to the call's precision, if it is not float32."""
    return values if call.precision == "float32" else quantize_embeddings(values, call.precision, call.ranges)


def truncate_and_normalize(vectors: Vectors, dim: int, *, normalize: bool) -> Vectors:
    """Truncate vectors to `dim` coordinates, then scale them to length 1 if `normalize` is true."""
    values: Vectors = vectors[..., :dim]
    if normalize:
        values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), SMALLEST_NORM)
    return values

"""Sparse embeddings: graph outputs to the sparse vectors that a call returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch
from embedrt.inputs.values import positive
from embedrt.run.request import Request, Result, Run
from embedrt.tasks.call import Call
from embedrt.types import SPARSE
from embedrt.vectors.sparse import SparseVectors, as_sparse, strongest

_Row = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class SparseRows:
    """Collector of sparse embeddings: the coordinates and the values of the entries of each text.

    Attributes:
        max_active_dims: The number of entries to keep of each, the largest by absolute value; None keeps all.
    """

    max_active_dims: int | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (SPARSE,)

    def start(self, count: int) -> list[_Row | None]:
        """See `Gather`."""
        return [None] * count

    def keep(
        self,
        values: list[_Row | None],
        rows: NDArray[np.int64],
        batch: Batch,
        results: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """See `Gather`."""
        for row, weights in zip(rows, results[SPARSE], strict=True):
            indices = np.flatnonzero(weights)
            if self.max_active_dims is not None:
                indices = indices[strongest(weights[indices], self.max_active_dims)]
            values[row] = indices.astype(np.int32), weights[indices]


def encode_sparse(run: Run, texts: list[str], call: Call, max_active_dims: int | None) -> Result:
    """Compute the sparse embeddings of a validated call: `SparseVectors` `[texts, vocabulary]`.

    Args:
        run: The `run` method of a runner or pool.
        texts: The texts, without the prompt.
        call: The call.
        max_active_dims: See `SparseRows`.
    """
    request = Request(
        SparseRows(max_active_dims),
        call.max_seq_length,
        prompt=call.prompt,
        batch_size=call.batch_size,
        forbid_truncation=call.on_truncation == "error",
    )
    result = run(texts, request)
    return Result(SparseVectors.from_rows(result.values, call.dim), result.truncated)


def active_dims(value: Any) -> int | None:
    """Validate a maximum number of active dimensions; None is no maximum."""
    return None if value is None else positive(value, "max_active_dims")


def sparsity(embeddings: Any) -> dict[str, float]:
    """The mean number of active dimensions, and the mean share of those that are not."""
    vectors = as_sparse(embeddings, "embeddings")
    if 0 in vectors.shape:
        return {"active_dims": 0.0, "sparsity_ratio": 1.0}
    active = float(vectors.counts.mean(dtype=np.float32))
    return {"active_dims": active, "sparsity_ratio": 1.0 - active / vectors.width}


def decode(embeddings: Any, width: int, tokens: Callable[[Sequence[int]], list[str | None]], top_k: int | None) -> Any:
    """The tokens of sparse embeddings with their weights, the largest first; ties keep the order of the vocabulary.

    Args:
        embeddings: One vector, or rows of vectors.
        width: The number of coordinates of the model's vectors.
        tokens: Function from coordinates to tokens.
        top_k: The number of tokens; None gives all.

    Returns:
        A list of pairs (token, weight) for every vector, or one list for one vector.
    """
    vectors = as_sparse(embeddings, "embeddings")
    count = None if top_k is None else positive(top_k, "top_k")
    if vectors.width > width and vectors.rows:
        raise ValueError(f"embeddings: expected vectors of width {width}, got {vectors.width}")
    found = []
    for one in vectors.matrix:
        order = np.argsort(-one.values, kind="stable")[:count]
        weights: list[float] = one.values[order].tolist()
        found.append(list(zip(tokens(one.indices[order].tolist()), weights, strict=True)))
    return found if vectors.ndim == 2 else found[0]

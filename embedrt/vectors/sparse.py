"""`SparseVectors`: rows that are mostly zeros, as the entries that are not, with the formats of vector databases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import MissingDependencyError
from embedrt.inputs.values import integer, positive, shown
from embedrt.vectors.arrays import as_array
from embedrt.vectors.torch_tensors import torch

_MOST = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False, repr=False)
class SparseVectors:
    """Sparse vectors in compressed rows (CSR), or one sparse vector.

    Indexing with an int gives one vector, with a slice or an array of indexes several; iterating gives one at a time.

    Attributes:
        indices: The coordinates of the entries, rising in every row, int32 `[entries]`.
        values: The entries, float32 `[entries]`.
        indptr: The bounds of every row in `indices` and `values`, int64 `[rows + 1]`.
        shape: `(rows, width)`, or `(width,)` for one vector.

    Raises:
        ValueError: The arrays do not fit each other, or there is NaN or infinity.

    Example:
        >>> vectors = SparseVectors.from_dicts([{2: 0.5}, {}], width=4)
        >>> vectors.to_dense().tolist()
        [[0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    indptr: NDArray[np.int64]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        indices, indptr = np.asarray(self.indices), np.asarray(self.indptr, np.int64)
        values = np.asarray(self.values, np.float32)
        shape = tuple(map(int, self.shape))
        rows = shape[0] if len(shape) == 2 else 1
        if not 1 <= len(shape) <= 2 or min(shape) < 0 or shape[-1] > _MOST:
            raise ValueError(f"shape: expected (rows, width) or (width,), got {shown(self.shape)}")
        if indptr.shape != (rows + 1,) or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ValueError(f"indptr: expected {rows + 1} bounds that rise from 0, got the shape {indptr.shape}")
        if not indices.shape == values.shape == (indptr[-1],):
            raise ValueError(
                f"indices and values: expected {indptr[-1]} entries, as in indptr, got {indices.shape} and "
                f"{values.shape}"
            )
        if indices.size and (indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= shape[-1]):
            raise ValueError(f"indices: expected integers from 0 to {shape[-1] - 1}")
        starts = np.zeros(indices.size + 1, bool)
        starts[indptr] = True
        if not ((np.diff(indices.astype(np.int64)) > 0) | starts[1:-1]).all():
            raise ValueError("indices: expected coordinates that rise in every row, without repeats")
        if not np.isfinite(values).all():
            raise ValueError("values: expected finite numbers, got NaN or infinity")
        normalized = {"indices": indices.astype(np.int32, copy=False), "values": values, "indptr": indptr}
        for name, array in {**normalized, "shape": shape}.items():
            object.__setattr__(self, name, array)

    @property
    def ndim(self) -> int:
        """2 for rows of vectors, 1 for one vector."""
        return len(self.shape)

    @property
    def rows(self) -> int:
        """Number of vectors."""
        return len(self.indptr) - 1

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return self.shape[-1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of entries of every vector, `[rows]`."""
        return np.diff(self.indptr)

    def __repr__(self) -> str:
        return f"SparseVectors(shape={self.shape}, entries={len(self.values)})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> "SparseVectors":
        if self.ndim == 1:
            raise TypeError("expected rows of vectors, got one vector; to_dicts() and to_dense() have its entries")
        row = integer(key)
        if row is not None:
            if not -self.rows <= row < self.rows:
                raise IndexError(f"expected a row from 0 to {self.rows - 1}, got {row}")
            start, end = self.indptr[row % self.rows], self.indptr[row % self.rows + 1]
            bounds = np.array([0, end - start])
            return SparseVectors(self.indices[start:end], self.values[start:end], bounds, (self.width,))
        chosen = np.arange(self.rows)[key]
        counts = self.counts[chosen]
        entries = spans(self.indptr[chosen], counts)
        return SparseVectors(self.indices[entries], self.values[entries], bounds_of(counts), (len(chosen), self.width))

    def __iter__(self) -> Iterator["SparseVectors"]:
        return (self[row] for row in range(len(self)))

    @property
    def matrix(self) -> "SparseVectors":
        """The same as rows: one vector is one row."""
        return self if self.ndim == 2 else SparseVectors(self.indices, self.values, self.indptr, (1, self.width))

    def strongest(self, count: int | None) -> "SparseVectors":
        """Keep the entries with the largest absolute values of every vector; ties keep the lower coordinates.

        Args:
            count: The number of entries to keep; None keeps all.
        """
        if count is None or not (self.counts > positive(count, "count")).any():
            return self
        kept = [strongest(self.values[start:end], count) + start for start, end in pairwise(self.indptr.tolist())]
        entries = np.concatenate(kept)
        bounds = bounds_of(np.array([len(part) for part in kept]))
        return SparseVectors(self.indices[entries], self.values[entries], bounds, self.shape)

    def to_dense(self) -> NDArray[np.float32]:
        """The vectors as an array, float32 `shape`."""
        dense = np.zeros((self.rows, self.width), np.float32)
        dense[np.repeat(np.arange(self.rows), self.counts), self.indices] = self.values
        return dense.reshape(self.shape)

    def to_scipy(self) -> Any:
        """The vectors as a `scipy.sparse.csr_array`; one vector is one row.

        Raises:
            MissingDependencyError: SciPy is not installed.
        """
        try:
            from scipy.sparse import csr_array
        except ImportError as error:
            raise MissingDependencyError("SciPy is not installed; run `pip install scipy`") from error
        return csr_array((self.values, self.indices, self.indptr), shape=(self.rows, self.width))

    def to_torch(self) -> Any:
        """The vectors as a sparse COO tensor of torch, as sentence-transformers returns them.

        Raises:
            MissingDependencyError: torch is not installed.
        """
        entries = self.indices.astype(np.int64)[np.newaxis]
        if self.ndim == 2:
            entries = np.concatenate([np.repeat(np.arange(self.rows), self.counts)[np.newaxis], entries])
        module = torch()
        # The entries are in order and without repeats, which is checked above.
        return module.sparse_coo_tensor(
            module.from_numpy(entries), module.from_numpy(self.values.copy()), self.shape, is_coalesced=True
        )

    def to_dicts(self) -> Any:
        """Entries by coordinate: a dict for every vector, or one dict for one vector."""
        return self._each(lambda indices, values: dict(zip(indices, values, strict=True)))

    def to_milvus(self) -> list[dict[int, float]]:
        """The vectors as Milvus takes them: a dict of entries by coordinate for every vector."""
        dicts: list[dict[int, float]] = self.matrix.to_dicts()
        return dicts

    def to_qdrant(self) -> Any:
        """The vectors as Qdrant takes them: `{"indices": [...], "values": [...]}` for every vector, or one for one."""
        return self._each(lambda indices, values: {"indices": indices, "values": values})

    def to_opensearch(self, tokens: Sequence[str]) -> Any:
        """The vectors as OpenSearch and Elasticsearch take them: weights by token for every vector, or for one.

        Args:
            tokens: The token of every coordinate, such as `SparseEncoder.vocabulary`.
        """
        if len(tokens) != self.width:
            raise ValueError(f"tokens: expected {self.width}, one for every coordinate, got {len(tokens)}")
        return self._each(
            lambda indices, values: {tokens[index]: value for index, value in zip(indices, values, strict=True)}
        )

    def _each(self, make: Any) -> Any:
        indices, values = self.indices.tolist(), self.values.tolist()
        found = [make(indices[start:end], values[start:end]) for start, end in pairwise(self.indptr.tolist())]
        return found if self.ndim == 2 else found[0]

    @staticmethod
    def from_rows(rows: Sequence[tuple[NDArray[Any], NDArray[Any]]], width: int) -> "SparseVectors":
        """Vectors from the coordinates and the entries of each."""
        counts = np.array([len(indices) for indices, _ in rows], np.int64)
        indices = np.concatenate([np.empty(0, np.int32), *(indices for indices, _ in rows)])
        values = np.concatenate([np.empty(0, np.float32), *(values for _, values in rows)])
        return SparseVectors(indices.astype(np.int32), values, bounds_of(counts), (len(rows), width))

    @staticmethod
    def from_dense(vectors: Any) -> "SparseVectors":
        """Vectors from an array or tensor `[rows, width]` or `[width]`; zeros are left out."""
        dense = as_array(vectors, "vectors")
        if dense.ndim not in {1, 2}:
            raise ValueError(f"vectors: expected [rows, width] or [width], got the shape {list(dense.shape)}")
        rows, columns = np.nonzero(np.atleast_2d(dense))
        counts = np.bincount(rows, minlength=len(np.atleast_2d(dense)))
        values = np.atleast_2d(dense)[rows, columns]
        return SparseVectors(columns.astype(np.int32), values, bounds_of(counts), dense.shape)

    @staticmethod
    def from_dicts(dicts: Mapping[int, float] | Sequence[Mapping[int, float]], width: int) -> "SparseVectors":
        """Vectors from entries by coordinate, as `to_dicts` and `to_milvus` give them; zeros are left out."""
        single = isinstance(dicts, Mapping)
        many: Sequence[Mapping[int, float]] = [dicts] if isinstance(dicts, Mapping) else dicts
        rows = []
        for one in many:
            indices = np.fromiter(one, np.int64, len(one))
            values = np.fromiter(one.values(), np.float32, len(one))
            order = np.argsort(indices)
            order = order[values[order] != 0]
            rows.append((indices[order], values[order]))
        made = SparseVectors.from_rows(rows, width)
        return made[0] if single else made

    @staticmethod
    def from_qdrant(vectors: Mapping[str, Any] | Sequence[Mapping[str, Any]], width: int) -> "SparseVectors":
        """Vectors from `{"indices": [...], "values": [...]}`, as `to_qdrant` gives them."""
        if isinstance(vectors, Mapping):
            return SparseVectors.from_dicts(dict(zip(vectors["indices"], vectors["values"], strict=True)), width)
        return SparseVectors.from_dicts(
            [dict(zip(one["indices"], one["values"], strict=True)) for one in vectors], width
        )

    @staticmethod
    def from_scipy(matrix: Any) -> "SparseVectors":
        """Vectors from a matrix or array of `scipy.sparse`, one for every row; repeated entries are added."""
        rows = matrix.tocsr(copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return SparseVectors(rows.indices, rows.data, rows.indptr, rows.shape)

    @staticmethod
    def from_torch(tensor: Any) -> "SparseVectors":
        """Vectors from a tensor of torch, sparse or dense, `[rows, width]` or `[width]`."""
        tensor = tensor.detach().cpu()
        if str(tensor.layout) == "torch.strided":
            return SparseVectors.from_dense(tensor)
        shape = tuple(tensor.shape)
        whole = (tensor.to_sparse_coo() if len(shape) == 2 else tensor).coalesce()
        entries, values = whole.indices().numpy(), whole.values().float().numpy()
        kept = values != 0
        rows = entries[0][kept] if len(shape) == 2 else np.zeros(int(kept.sum()), np.int64)
        counts = np.bincount(rows, minlength=shape[0] if len(shape) == 2 else 1)
        return SparseVectors(entries[-1][kept].astype(np.int32), values[kept], bounds_of(counts), shape)

    @staticmethod
    def stack(vectors: Sequence["SparseVectors"]) -> "SparseVectors":
        """Rows of several vectors, or of several matrices, one after the other.

        Raises:
            ValueError: They differ in width, or there are none.
        """
        parts = [one.matrix for one in vectors]
        widths = sorted({one.width for one in parts})
        if len(widths) != 1:
            raise ValueError(f"vectors: expected sparse vectors of equal width, got {widths or 'none'}")
        counts = np.concatenate([one.counts for one in parts])
        return SparseVectors(
            np.concatenate([one.indices for one in parts]),
            np.concatenate([one.values for one in parts]),
            bounds_of(counts),
            (len(counts), widths[0]),
        )


def as_sparse(value: Any, name: str) -> SparseVectors:
    """Convert vectors of any kind: sparse ones, tensors, arrays, matrices of SciPy, or a list of one kind.

    Raises:
        TypeError: The input is not numeric, such as text.
        ValueError: The vectors of a list differ in width.
    """
    if isinstance(value, SparseVectors):
        return value
    if hasattr(value, "tocsr"):
        return SparseVectors.from_scipy(value)
    if isinstance(value, list | tuple) and value and (is_sparse(value[0]) or hasattr(value[0], "detach")):
        return SparseVectors.stack([as_sparse(one, f"{name}[{i}]") for i, one in enumerate(value)])
    if hasattr(value, "detach"):
        return SparseVectors.from_torch(value)
    array = as_array(value, name)
    return SparseVectors.from_dense(array.reshape(0, 0) if not array.size and array.ndim < 2 else array)


def is_sparse(value: Any) -> bool:
    """True for `SparseVectors`, sparse tensors, matrices of SciPy, and lists of these."""
    if isinstance(value, list | tuple):
        return bool(value) and is_sparse(value[0])
    is_tensor = hasattr(value, "detach") and str(value.layout) != "torch.strided"
    return isinstance(value, SparseVectors) or hasattr(value, "tocsr") or is_tensor


def strongest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Places of the largest absolute values, in their order; ties keep the first."""
    if len(values) <= count:
        return np.arange(len(values))
    sizes = np.abs(values)
    least = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
    above = sizes > least
    missing = count - int(np.count_nonzero(above))
    above[np.flatnonzero(sizes == least)[:missing]] = True
    return np.flatnonzero(above)


def bounds_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Bounds of consecutive rows with so many entries each, `[rows + 1]`."""
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    return bounds


def spans(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Consecutive numbers from every start, one range after the other."""
    bounds = bounds_of(counts)
    return np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], counts)

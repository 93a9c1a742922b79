"""Packing: flat token ids to the input arrays of a packed graph, text after text without padding."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import MANIFEST, Packing, Tokenization
from embedrt.engine.stream import INPUTS, SCRATCH, Shape
from embedrt.errors import BundleError
from embedrt.inputs.text import Tokens, offsets_of


@dataclass(frozen=True, eq=False)
class _Stream:
    """The tokens of a batch. A text without tokens has one padding token, which is not pooled.

    Attributes:
        ids: Token ids, int32 `[tokens]`.
        type_ids: Token type ids, int32 `[tokens]`, or None if the tokenizer makes none.
        starts: Start of each text, int32 `[texts + 1]`; the last entry is the number of tokens.
        lengths: Tokens of each text, int32 `[texts]`.
        unpooled: Tokens at the start of each text that are not pooled, int32 `[texts]`.
        length: Tokens of a text that the inputs are laid out for.
        padding_id: See `Packing`.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    unpooled: NDArray[np.int32]
    length: int
    padding_id: int | None

    @property
    def shape(self) -> Shape:
        return Shape(len(self.ids), len(self.lengths), self.length)

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """The places of a text's tokens, int32 `[length]`."""
        return np.arange(self.length, dtype=np.int32)

    @cached_property
    def ends(self) -> NDArray[np.bool_]:
        """True for the places behind the end of each text, `[texts, length]`."""
        return self.places >= self.lengths[:, np.newaxis]

    @cached_property
    def pooled(self) -> NDArray[np.bool_]:
        """True for the places of pooled tokens, `[texts, length]`."""
        return (self.places >= self.unpooled[:, np.newaxis]) & ~self.ends

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The number of pooled tokens of each text, but at least 1, to divide by."""
        counts: NDArray[np.int64] = np.maximum(self.lengths.astype(np.int64) - self.unpooled, 1)
        return counts

    @cached_property
    def first_pooled(self) -> NDArray[np.int32]:
        """The stream row of each text's first pooled token; of its last token if none is pooled."""
        return self.starts[:-1] + np.minimum(self.unpooled, self.lengths - 1)


def _type_ids(stream: _Stream) -> NDArray[np.int32]:
    return np.zeros_like(stream.ids) if stream.type_ids is None else stream.type_ids


def _position_ids(stream: _Stream) -> NDArray[np.int32]:
    if stream.padding_id is None:
        before = stream.starts[:-1]
        return np.arange(len(stream.ids), dtype=np.int32) - np.repeat(before, stream.lengths)
    counted = stream.ids != stream.padding_id
    counts = np.cumsum(counted, dtype=np.int32)
    firsts = stream.starts[:-1]
    before = counts[firsts] - counted[firsts]
    positions: NDArray[np.int32] = (counts - np.repeat(before, stream.lengths)) * counted
    return positions


def _token_index(stream: _Stream) -> NDArray[np.int32]:
    return stream.starts[:-1, np.newaxis] + np.where(stream.ends, np.int32(0), stream.places)


def _pooled_index(stream: _Stream) -> NDArray[np.int32]:
    rows = stream.starts[:-1, np.newaxis] + stream.places
    return np.where(stream.pooled, rows, stream.first_pooled[:, np.newaxis])


def _equal_weights(stream: _Stream, sums: NDArray[Any]) -> NDArray[np.float32]:
    """The same weight for every pooled token of a text, 1 / `sums`."""
    weights = np.reciprocal(sums.astype(np.float64)).astype(np.float32)
    return np.where(stream.pooled, weights[:, np.newaxis], np.float32(0))[:, np.newaxis]


def _weighted_by_place(stream: _Stream) -> NDArray[np.float32]:
    numbers = stream.places.astype(np.float64) + 1
    sums = np.maximum((stream.pooled * numbers).sum(axis=1, keepdims=True), 1)
    return np.where(stream.pooled, numbers / sums, 0).astype(np.float32)[:, np.newaxis]


def _has_tokens(stream: _Stream) -> NDArray[np.float32]:
    return (stream.unpooled < stream.lengths).astype(np.float32)[:, np.newaxis]


_OF_TEXTS: Mapping[str, Callable[[_Stream], NDArray[Any]]] = {
    "input_ids": lambda stream: stream.ids,
    "token_type_ids": _type_ids,
    "position_ids": _position_ids,
    "starts": lambda stream: stream.starts,
    "token_index": _token_index,
    "pooled_index": _pooled_index,
    "mean_weights": lambda stream: _equal_weights(stream, stream.counts),
    "mean_sqrt_len_weights": lambda stream: _equal_weights(stream, np.sqrt(stream.counts)),
    "weightedmean_weights": _weighted_by_place,
    "first_rows": lambda stream: stream.first_pooled,
    "last_rows": lambda stream: stream.starts[1:] - np.int32(1),
    "has_tokens": _has_tokens,
}
"""The inputs that depend on the texts; the others depend on the shape of the batch alone."""


def packed_input_names(packing: Packing) -> tuple[str, ...]:
    """The names of a packed graph's inputs, scratch memory included.

    Raises:
        BundleError: A name is unknown; a newer embedrt may know it.
    """
    names = tuple(name for name in packing.inputs if name not in SCRATCH)
    if unknown := [name for name in names if name not in INPUTS]:
        raise BundleError(f"packing.inputs of {MANIFEST}: {', '.join(unknown)} unknown; update embedrt")
    return names if packing.scratch is None else (*names, *SCRATCH)


def spans(tokens: Tokens, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start and end of texts in the stream that `pack` makes of them, int64 `[len(rows), 2]`."""
    counts = tokens.offsets[rows + 1] - tokens.offsets[rows]
    starts = offsets_of(np.maximum(counts, 1))[:-1]
    return np.stack([starts, starts + counts], axis=1)


def pack(
    tokens: Tokens,
    rows: NDArray[np.int64],
    length: int,
    tokenization: Tokenization,
    packing: Packing,
    unpooled: int | NDArray[np.int64] = 0,
) -> dict[str, NDArray[Any]]:
    """Pack texts into one stream of tokens.

    Args:
        tokens: The token ids of all texts.
        rows: Indexes of the texts to pack.
        length: Tokens of a text that the inputs are laid out for, at least those of the longest; it is rounded up to a
            multiple of the packing's step.
        tokenization: The padding token.
        packing: The inputs of the graph.
        unpooled: Tokens at the start of each row that are not pooled: one number, or one per row.

    Returns:
        The graph's inputs by name, int32 and float32, without scratch memory.

    Raises:
        ValueError: A row is longer than `length`, or has tokens that are not attended to.
        BundleError: A token id is outside of the word embedding table, which a GPU would read as zeros; or an input is
            unknown.
    """
    if tokens.attended is not None:
        raise ValueError("attended: expected None, as all tokens of a packed text attend to each other")
    before = tokens.offsets[rows]
    counts = tokens.offsets[rows + 1] - before
    if (longest := counts.max(initial=0)) > length:
        raise ValueError(f"length: expected at least {longest}, the tokens of the longest row, got {length}")
    lengths = np.maximum(counts, 1)
    starts = offsets_of(lengths)
    index = np.repeat(before - starts[:-1], lengths) + np.arange(starts[-1])
    without_tokens = starts[:-1][counts == 0]

    def stream_of(values: NDArray[np.int32], fill: int) -> NDArray[np.int32]:
        if not len(values):
            return np.full(len(index), fill, np.int32)
        taken = values.take(index, mode="clip")
        taken[without_tokens] = fill
        return taken

    ids = stream_of(tokens.ids, tokenization.pad_id)
    if (largest := ids.max(initial=0)) >= tokenization.embedding_rows:
        raise BundleError(
            f"token id {largest}: expected less than embedding_rows, {tokenization.embedding_rows}, of {MANIFEST}; "
            "export the model again"
        )
    stream = _Stream(
        ids,
        None if tokens.type_ids is None else stream_of(tokens.type_ids, 0),
        starts.astype(np.int32),
        lengths.astype(np.int32),
        np.where(counts == 0, 1, np.broadcast_to(unpooled, counts.shape)).astype(np.int32),
        -(-max(length, 1) // packing.length_step) * packing.length_step,
        packing.padding_id,
    )
    return {name: _made(name, stream) for name in packed_input_names(packing) if name not in SCRATCH}


def _made(name: str, stream: _Stream) -> NDArray[Any]:
    make = INPUTS[name].make
    return _OF_TEXTS[name](stream) if make is None else make(stream.shape)

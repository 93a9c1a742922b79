"""Shapes of a packed graph's inputs, and a batch laid out in a larger shape.

Whatever a larger shape adds is without effect: tokens behind the last row, which belong to no row; rows without tokens;
places behind the end of a row, which weigh nothing. `embedrt.inputs.packing` makes the inputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch

BLOCK = 256
"""Tokens of a block of scratch memory."""
SCRATCH = ("key_scratch", "value_scratch")
"""The inputs that are scratch memory, which the engine makes."""
LONGEST = "longest"
"""The input that stays in host memory."""


@dataclass(frozen=True)
class Shape:
    """Size of a packed batch.

    Attributes:
        tokens: Tokens of the stream.
        rows: Number of texts.
        longest: Tokens of a text that the inputs are laid out for.
    """

    tokens: int
    rows: int
    longest: int

    @property
    def blocks(self) -> int:
        """Blocks of scratch memory of one row."""
        return -(-self.longest // BLOCK)


def _with_zeros(out: NDArray[Any], array: NDArray[Any]) -> None:
    out[...] = 0
    out[tuple(map(slice, array.shape))] = array


def _with_last(out: NDArray[Any], array: NDArray[Any]) -> None:
    out[...] = array[-1]
    out[: len(array)] = array


def _with_first_column(out: NDArray[Any], array: NDArray[Any]) -> None:
    rows, length = array.shape
    out[...] = 0
    out[:rows] = array[:, :1]
    out[:rows, :length] = array


@dataclass(frozen=True)
class _Input:
    """One input of a packed graph.

    Attributes:
        sizes: The shape of its array.
        dtype: The dtype of its array.
        write: Writes the array of a smaller shape into that of a larger one.
        make: Makes the array of a shape, if that is all it depends on.
        longest: Reads the length that an array is laid out for; None if it depends on none.
    """

    sizes: Callable[[Shape], tuple[int, ...]]
    dtype: type[np.generic] = np.int32
    write: Callable[[NDArray[Any], NDArray[Any]], None] = _with_zeros
    make: Callable[[Shape], NDArray[np.int32]] | None = None
    longest: Callable[[NDArray[Any]], int] | None = None


def _last_axis(array: NDArray[Any]) -> int:
    return int(array.shape[-1])


_PER_TOKEN = _Input(lambda shape: (shape.tokens,))
_PER_ROW = _Input(lambda shape: (shape.rows,))
_INDEX = _Input(lambda shape: (shape.rows, shape.longest), write=_with_first_column, longest=_last_axis)
_WEIGHTS = _Input(lambda shape: (shape.rows, 1, shape.longest), np.float32, longest=_last_axis)

INPUTS: Mapping[str, _Input] = {
    "input_ids": _PER_TOKEN,
    "token_type_ids": _PER_TOKEN,
    "position_ids": _PER_TOKEN,
    "starts": _Input(lambda shape: (shape.rows + 1,), write=_with_last),
    "token_index": _INDEX,
    "pooled_index": _INDEX,
    "mean_weights": _WEIGHTS,
    "mean_sqrt_len_weights": _WEIGHTS,
    "weightedmean_weights": _WEIGHTS,
    "first_rows": _PER_ROW,
    "last_rows": _PER_ROW,
    "has_tokens": _Input(lambda shape: (shape.rows, 1), np.float32),
    "offsets": _Input(
        lambda shape: (shape.longest,), make=lambda shape: np.arange(shape.longest, dtype=np.int32), longest=_last_axis
    ),
    "past_lengths": _Input(lambda shape: (shape.rows,), make=lambda shape: np.zeros(shape.rows, np.int32)),
    "block_table": _Input(
        lambda shape: (shape.rows, shape.blocks),
        make=lambda shape: np.arange(shape.rows * shape.blocks, dtype=np.int32).reshape(shape.rows, shape.blocks),
    ),
    LONGEST: _Input(
        lambda _: (2,), make=lambda shape: np.full(2, shape.longest, np.int32), longest=lambda array: int(array[0])
    ),
}
"""The inputs of packed graphs, without scratch memory, by name. Every number in them has 4 bytes."""


def shape_of(batch: Batch) -> Shape:
    """The shape that a packed batch is laid out in."""
    rows, longest = batch.shape
    lengths = (read(array) for name, array in batch.feeds.items() if (read := INPUTS[name].longest) is not None)
    return Shape(len(batch.feeds["input_ids"]), rows, next(lengths, longest))


def laid_out(feeds: Mapping[str, NDArray[Any]], shape: Shape) -> dict[str, NDArray[Any]]:
    """Lay the inputs of a batch out in a shape that is at least as large as its own."""
    return {name: _laid_out(INPUTS[name], array, shape) for name, array in feeds.items()}


def _laid_out(one: _Input, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    if one.make is not None:
        return one.make(shape)
    if array.shape == (sizes := one.sizes(shape)):
        return array
    out = np.empty(sizes, array.dtype)
    one.write(out, array)
    return out

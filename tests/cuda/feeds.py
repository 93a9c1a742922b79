"""Inputs of packed graphs for texts of given lengths, made from their description and not by the runtime.

Values that only a computation needs are zeros: the kernels compute nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 256


@dataclass(frozen=True)
class Feeds:
    """Inputs of a run.

    Attributes:
        arrays: By name.
        blocks: Size of the first axis of inputs that have no array: memory for keys and values.
    """

    arrays: dict[str, NDArray[Any]]
    blocks: int = 0


def packed_feeds(names: Sequence[str], lengths: Sequence[int], step: int = 8) -> Feeds:
    """Inputs for those of a packed graph's inputs that bear these names."""
    texts, tokens = len(lengths), sum(lengths)
    longest = -(-max(lengths) // step) * step
    starts = np.cumsum([0, *lengths])
    blocks = -(-longest // _BLOCK)
    column = np.arange(longest)
    index = np.where(
        column < np.array(lengths)[:, np.newaxis], starts[:-1, np.newaxis] + column, starts[:-1, np.newaxis]
    )
    ints: dict[str, Any] = {
        "input_ids": np.full(tokens, 7),
        "token_type_ids": np.zeros(tokens),
        "position_ids": np.concatenate([np.arange(length) for length in lengths]),
        "starts": starts,
        "token_index": index,
        "pooled_index": index,
        "offsets": column,
        "first_rows": starts[:-1],
        "last_rows": starts[1:] - 1,
        "past_lengths": np.zeros(texts),
        "block_table": np.arange(texts * blocks).reshape(texts, blocks),
        "longest": [longest, longest],
    }
    floats: dict[str, Any] = {"has_tokens": np.ones((texts, 1))}
    floats |= {f"{mode}_weights": np.zeros((texts, 1, longest)) for mode in ("mean", "mean_sqrt_len", "weightedmean")}
    every = {name: np.asarray(value, np.int32) for name, value in ints.items()}
    every |= {name: np.asarray(value, np.float32) for name, value in floats.items()}
    return Feeds({name: every[name] for name in names if name in every}, texts * blocks)

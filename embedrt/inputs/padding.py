"""Padding: flat token ids become the arrays that a graph reads. Every batch is padded here."""

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Tokenization
from embedrt.inputs.text import Tokens


def pad(
    tokens: Tokens,
    rows: NDArray[np.int64],
    length: int,
    tokenization: Tokenization,
    left_out: int | NDArray[np.int64] = 0,
) -> dict[str, NDArray[np.int64]]:
    """Pads some texts to one length: the graph's inputs by name, int64 `[len(rows), length]`.

    Args:
        tokens: The texts.
        rows: Indexes of those to pad.
        length: Tokens of a row in the result, at least as many as the longest has.
        tokenization: The padding side and the inputs that the graph has.
        left_out: Tokens at the start of each row that are not pooled; one number, or one for each row.

    Raises:
        ValueError: A row is longer than `length`.
    """
    starts = tokens.offsets[rows]
    lengths = tokens.offsets[rows + 1] - starts
    if (longest := lengths.max(initial=0)) > length:
        raise ValueError(f"a row has {longest} tokens, which is more than {length}")
    places = np.arange(length)  # of each column in its own row
    if tokenization.padding_side == "left":
        places = places - (length - lengths)[:, np.newaxis]
        real = places >= 0
    else:
        real = places < lengths[:, np.newaxis]
    index = starts[:, np.newaxis] + places

    def filled(values: NDArray[np.int32], fill: int) -> NDArray[np.int64]:
        if not len(values):
            return np.full(real.shape, fill, np.int64)
        return np.where(real, values.take(index, mode="clip"), np.int64(fill))

    feeds = {"input_ids": filled(tokens.ids, tokenization.pad_id), "attention_mask": real.astype(np.int64)}
    if tokens.type_ids is not None:
        feeds["token_type_ids"] = filled(tokens.type_ids, 0)
    if tokenization.pooling_mask:
        feeds["pooling_mask"] = (real & (places >= np.reshape(left_out, (-1, 1)))).astype(np.int64)
    return feeds

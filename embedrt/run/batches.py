"""Batches: some texts, padded or packed as their graph takes them."""

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Packing, Tokenization
from embedrt.engine import Batch
from embedrt.inputs.packing import pack, spans
from embedrt.inputs.padding import pad, real_tokens
from embedrt.inputs.text import Tokens


def make_batch(
    tokens: Tokens,
    rows: NDArray[np.int64],
    length: int,
    tokenization: Tokenization,
    packing: Packing | None,
    unpooled: int | NDArray[np.int64] = 0,
    *,
    alone: bool = False,
) -> Batch:
    """Make a batch of texts.

    Args:
        tokens: The token ids of all texts.
        rows: Indexes of the texts in the batch.
        length: At least the tokens of the longest text; padded texts get this length.
        tokenization: The padding and the inputs of a padded graph.
        packing: The inputs of a packed graph; None for a padded one.
        unpooled: Tokens at the start of each row that are not pooled: one number, or one per row.
        alone: See `Batch`.

    Raises:
        ValueError: A row is longer than `length`.
        BundleError: A token id is outside of the word embedding table.
    """
    if packing is None:
        real = None if tokens.attended is None else real_tokens(tokens, rows, length, tokenization)
        return Batch(pad(tokens, rows, length, tokenization, unpooled), alone, real=real)
    return Batch(pack(tokens, rows, length, tokenization, packing, unpooled), alone, spans(tokens, rows))


def batch_tokens(tokens: Tokens, rows: NDArray[np.int64], length: int, packing: Packing | None) -> int:
    """Count the tokens that a batch of texts computes, padding included."""
    if packing is None:
        return len(rows) * length
    return int((tokens.offsets[rows + 1] - tokens.offsets[rows]).sum())

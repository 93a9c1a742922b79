"""Padding: flat token ids to the input arrays of a graph. Every batch is padded here."""

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import MANIFEST, Tokenization
from embedrt.errors import BundleError
from embedrt.inputs.text import Tokens


def input_names(tokenization: Tokenization) -> tuple[str, ...]:
    """The names of the arrays that `pad` returns, which are the inputs of a graph."""
    optional = {"token_type_ids": tokenization.token_type_ids, "pooling_mask": tokenization.pooling_mask}
    return ("input_ids", "attention_mask", *(name for name, taken in optional.items() if taken))


def positions_of(lengths: NDArray[np.int64], length: int, tokenization: Tokenization) -> NDArray[np.int64]:
    """The position of every place of padded texts in its text: below 0, or from the text's length on, for padding.

    Args:
        lengths: The tokens of each text.
        length: Padded length in tokens.
        tokenization: The padding side.

    Returns:
        int64 `[length]`, or `[texts, length]` for padding on the left.
    """
    positions = np.arange(length)
    return positions - (length - lengths)[:, np.newaxis] if tokenization.padding_side == "left" else positions


def real_tokens(tokens: Tokens, rows: NDArray[np.int64], length: int, tokenization: Tokenization) -> NDArray[np.bool_]:
    """True for the tokens of padded texts, attended or not, `[len(rows), length]`; arguments as for `pad`."""
    lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
    positions = positions_of(lengths, length, tokenization)
    return (positions >= 0) & (positions < lengths[:, np.newaxis])


def pad(
    tokens: Tokens,
    rows: NDArray[np.int64],
    length: int,
    tokenization: Tokenization,
    unpooled: int | NDArray[np.int64] = 0,
) -> dict[str, NDArray[np.int64]]:
    """Pad texts to one length.

    Args:
        tokens: The token ids of all texts.
        rows: Indexes of the texts to pad.
        length: Padded length in tokens, at least that of the longest text.
        tokenization: The padding side and the inputs of the graph.
        unpooled: Tokens at the start of each row that are not pooled: one number, or one per row.

    Returns:
        The graph's inputs by name, int64 `[len(rows), length]`.

    Raises:
        ValueError: A row is longer than `length`.
        BundleError: A token id is outside of the word embedding table, which a GPU would read as zeros.
    """
    starts = tokens.offsets[rows]
    lengths = tokens.offsets[rows + 1] - starts
    if (longest := lengths.max(initial=0)) > length:
        raise ValueError(f"length: expected at least {longest}, the tokens of the longest row, got {length}")
    positions = positions_of(lengths, length, tokenization)
    real = positions >= 0 if tokenization.padding_side == "left" else positions < lengths[:, np.newaxis]
    index = starts[:, np.newaxis] + positions

    def filled(values: NDArray[np.int32], fill: int) -> NDArray[np.int64]:
        if not len(values):
            return np.full(real.shape, fill, np.int64)
        return np.where(real, values.take(index, mode="clip"), np.int64(fill))

    attended = real if tokens.attended is None else real & (positions < tokens.attended[rows][:, np.newaxis])
    feeds = {"input_ids": filled(tokens.ids, tokenization.pad_id), "attention_mask": attended.astype(np.int64)}
    if (largest := feeds["input_ids"].max(initial=0)) >= tokenization.embedding_rows:
        raise BundleError(
            f"token id {largest}: expected less than embedding_rows, {tokenization.embedding_rows}, of {MANIFEST}; "
            "export the model again"
        )
    if tokens.type_ids is not None:
        feeds["token_type_ids"] = filled(tokens.type_ids, 0)
    if tokenization.pooling_mask:
        feeds["pooling_mask"] = (real & (positions >= np.reshape(unpooled, (-1, 1)))).astype(np.int64)
    return feeds

"""Agreement of a tokenizer with its route, checked when a bundle is loaded."""

from pathlib import Path
from typing import Any

from embedrt.bundle.manifest import MANIFEST, Route
from embedrt.engine.native import NativeError, call_native
from embedrt.errors import BundleError


def require_fit(folder: Path, route: Route, tokenizer: Any) -> None:
    """Check that the word embedding table has a row for every token id, and that a text has room beside special tokens.

    Args:
        folder: The bundle.
        route: The route.
        tokenizer: Its `tokenizers.Tokenizer`.

    Raises:
        BundleError: An id is outside of the table, or a limit is too small; the message has the field. Or the tokenizer
            fails.
    """
    manifest, remedy = f"{folder}: {MANIFEST}", "export the model again"
    least = tokenizer.num_special_tokens_to_add(is_pair=False) + 1
    for field in ("max_seq_length", "parity_max_seq_length"):
        if (length := getattr(route, field)) is not None and length < least:
            raise BundleError(
                f"{manifest}: {field}: expected at least {least}, room for text beside the special tokens of "
                f"{route.tokenizer}, got {length}; {remedy}"
            )
    rows = route.tokenization.embedding_rows
    largest = max(_special_ids(folder / route.tokenizer, tokenizer), default=0)
    # The ids of all tokens take a while to list. Where they have gaps, `pad` finds an id outside of the table.
    if tokenizer.get_vocab_size(with_added_tokens=True) > rows:
        largest = max(largest, *tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= rows:
        raise BundleError(
            f"{manifest}: embedding_rows: expected more than {largest}, the largest id of {route.tokenizer}, got "
            f"{rows}; {remedy}"
        )


def _special_ids(path: Path, tokenizer: Any) -> list[int]:
    """The ids of the special tokens around a text, which need not be in the vocabulary."""
    try:
        ids: list[int] = call_native(tokenizer.encode, "").ids  # not as a batch, which would start threads
    except NativeError as failure:
        raise BundleError(
            f"{path}: the tokenizer fails on an empty text: {failure}; export the model again"
        ) from failure.__cause__
    return ids

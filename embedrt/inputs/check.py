"""Validation of input texts."""

from collections.abc import Iterable, Sequence
from typing import Any


def check_texts(texts: Any, name: str = "texts", *, first: int = 0) -> tuple[list[str], bool]:
    """Validate the input texts of a call.

    Args:
        texts: One str, or an iterable of str: list, tuple, generator, numpy array, pandas Series, ...
        name: The name of the argument, for messages.
        first: The index of the first item, for messages.

    Returns:
        The texts as a list, and True if the input was a single str.

    Raises:
        TypeError: An item is not a str; the message has its index.
        ValueError: An item has a lone surrogate, which UTF-8 cannot encode.
    """
    if isinstance(texts, str):
        _check_unicode(texts, name)
        return [texts], True
    expected = f"{name}: expected str or an ordered collection of str, got {type(texts).__name__}"
    if isinstance(texts, (bytes, dict, set, frozenset)) or not isinstance(texts, Iterable):
        raise TypeError(expected)
    if (dimensions := getattr(texts, "ndim", 1)) != 1:  # a DataFrame iterates over its column names
        raise TypeError(f"{expected} of {dimensions} dimensions")
    items = list(texts)
    for i, item in enumerate(items, first):
        if not isinstance(item, str):
            raise TypeError(f"{name}[{i}]: expected str, got {type(item).__name__}")
        _check_unicode(item, f"{name}[{i}]")
    return items, False


def _check_unicode(text: str, name: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: lone surrogate {text[error.start]!r} at character {error.start}; "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') replaces it"
        ) from None


def preview(indexes: Sequence[int]) -> str:
    """List the first few indexes for a message, such as `texts[3], texts[7] and 12 more`."""
    shown = ", ".join(f"texts[{i}]" for i in indexes[:5])
    return shown if len(indexes) <= 5 else f"{shown} and {len(indexes) - 5} more"

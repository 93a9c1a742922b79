"""Validation of input texts."""

from collections.abc import Iterable, Mapping, Sequence
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
        return [_checked(texts, name)], True
    items = list(require_collection(texts, name))
    for i, item in enumerate(items):
        if type(item) is str and item.isascii():  # most are, and names for messages take time
            continue
        if not isinstance(item, str):
            raise TypeError(f"{name}[{first + i}]: expected str, got {type(item).__name__}")
        items[i] = _checked(item, f"{name}[{first + i}]")
    return items, False


def require_collection(texts: Any, name: str) -> Iterable[Any]:
    """Check that texts are a collection or stream with an order, not one str.

    Raises:
        TypeError: They are one str, a mapping, which iterates over its keys, a set, bytes, or no iterable at all.
    """
    expected = f"{name}: expected str or an ordered collection of str, got {type(texts).__name__}"
    if isinstance(texts, (str, bytes, Mapping, set, frozenset)) or not isinstance(texts, Iterable):
        raise TypeError(expected)
    if (dimensions := getattr(texts, "ndim", 1)) != 1:  # a DataFrame iterates over its column names
        raise TypeError(f"{expected} of {dimensions} dimensions")
    return texts


def _checked(text: str, name: str) -> str:
    """The text as a plain str, whose methods cannot be overridden."""
    plain = text if type(text) is str else str.__str__(text)
    if plain.isascii():
        return plain
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: lone surrogate {plain[error.start]!r} at character {error.start}; "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') replaces it"
        ) from None
    return plain


def preview(indexes: Sequence[int]) -> str:
    """List the first few indexes for a message, such as `texts[3], texts[7] and 12 more`."""
    shown = ", ".join(f"texts[{i}]" for i in indexes[:5])
    return shown if len(indexes) <= 5 else f"{shown} and {len(indexes) - 5} more"

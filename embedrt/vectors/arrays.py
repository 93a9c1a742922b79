"""Vectors as callers have them (arrays, lists, tensors of torch), as arrays of numpy. What does not fit is named."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

# Below it the length of a vector counts as zero, as in torch.nn.functional.normalize.
SMALLEST_NORM = 1e-12
# Numbers in the largest intermediate array, as far as it is not the caller who says so.
AT_ONCE = 1 << 23


def as_array(value: Any, name: str) -> NDArray[Any]:
    """The numbers of an array, a tensor on any device, a list of these or a list of numbers; mostly without a copy.

    Floats of Python itself become float32, as in torch.

    Raises:
        TypeError: These are no numbers, but text for example.
        ValueError: The vectors of a list differ in length.
    """
    value = [_as_numpy(item) for item in value] if isinstance(value, list | tuple) else _as_numpy(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: these vectors cannot be one array, they differ in length: {error}") from None
    if array.dtype.kind not in "fiub":
        text = "text; encode it first" if array.dtype.kind in "US" else f"{type(value).__name__} of {array.dtype}"
        raise TypeError(f"{name}: expected vectors (an array, a tensor or lists of numbers), got {text}")
    of_python = isinstance(value, list) and not any(hasattr(item, "dtype") for item in value)
    return array.astype(np.float32) if of_python and array.dtype == np.float64 else array


def as_matrix(value: Any, name: str) -> NDArray[Any]:
    """`as_array`, of shape `[vectors, dim]`: one vector alone is one row, an empty list is no rows.

    Raises:
        TypeError: As `as_array`.
        ValueError: There are more than two dimensions, or none.
    """
    array = as_array(value, name)
    if array.ndim == 1:
        return array.reshape(1, -1) if array.size else array.reshape(0, 0)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected one vector [dim] or several [n, dim], got the shape {list(array.shape)}")
    return array


def as_floats(array: NDArray[Any], name: str, dtype: Any = np.float32) -> Floats:
    """The array in `dtype`, or in what its own numbers need if that is more: float64 stays, float16 becomes float32.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    floats: Floats = array.astype(np.result_type(array.dtype, dtype), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(floats.sum())  # also where finite numbers add up to too much, but never too few
    if suspicious and not np.isfinite(floats).all():
        rows = np.flatnonzero(~np.isfinite(np.atleast_2d(floats)).all(axis=1))
        shown = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
        raise ValueError(
            f"{name}: NaN or infinity in {len(rows)} of {len(np.atleast_2d(floats))} vectors (rows {shown}); "
            "leave them out, or find out what made them"
        )
    return floats


def lengths(vectors: Floats, name: str) -> Floats:
    """The Euclidean length of every vector.

    Raises:
        ValueError: A length is too large for the type of the numbers.
    """
    with np.errstate(over="ignore"):
        norms: Floats = np.sqrt(np.vecdot(vectors, vectors))
    if not np.isfinite(norms).all():
        raise ValueError(f"{name}: a vector is too long to compute with in {vectors.dtype}; scale it, or pass float64")
    return norms


def scaled(vectors: Floats, name: str) -> Floats:
    """The vectors at length 1, along the last axis; vectors of zeros stay as they are."""
    floats: Floats = vectors / np.maximum(lengths(vectors, name), SMALLEST_NORM)[..., np.newaxis]
    return floats


def by_pair(
    a: NDArray[Any],
    b: NDArray[Any],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    function: Callable[[NDArray[Any], NDArray[Any]], Floats],
) -> Floats:
    """`function(a[rows], b[columns])`, some pairs at a time."""
    size = max(1, AT_ONCE // max(1, a.shape[1]))
    parts = [slice(start, start + size) for start in range(0, max(1, len(rows)), size)]
    return np.concatenate([function(a[rows[part]], b[columns[part]]) for part in parts])


def _as_numpy(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:  # numpy has no bfloat16
        return np.asarray(tensor.float())

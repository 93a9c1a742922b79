"""User input (arrays, lists, torch tensors) to NumPy arrays, with errors that name the argument."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

# Lower bound for the norm in a division, as in torch.nn.functional.normalize.
SMALLEST_NORM = 1e-12
# Elements of the largest intermediate array, unless the caller chooses the chunk size.
AT_ONCE = 1 << 23


def as_array(value: Any, name: str) -> NDArray[Any]:
    """Convert an array, a tensor on any device, or lists of these to one array, mostly without a copy.

    Python floats become float32, as in torch.

    Raises:
        TypeError: The input is not numeric, such as text.
        ValueError: The vectors of a list differ in length.
    """
    value = [_as_numpy(item) for item in value] if isinstance(value, list | tuple) else _as_numpy(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected vectors of equal length: {error}") from None
    if array.dtype.kind not in "fiub":
        text = "text; encode it first" if array.dtype.kind in "US" else f"{type(value).__name__} of {array.dtype}"
        raise TypeError(f"{name}: expected vectors (an array, a tensor or lists of numbers), got {text}")
    is_python = isinstance(value, list) and not any(hasattr(item, "dtype") for item in value)
    return array.astype(np.float32) if is_python and array.dtype == np.float64 else array


def as_matrix(value: Any, name: str) -> NDArray[Any]:
    """Convert input to a matrix `[n, dim]`, as in `as_array`; a single vector is one row, an empty list is no rows.

    Raises:
        TypeError: See `as_array`.
        ValueError: The input does not have one or two dimensions.
    """
    array = as_array(value, name)
    if array.ndim == 1:
        return array.reshape(1, -1) if array.size else array.reshape(0, 0)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected one vector [dim] or several [n, dim], got the shape {list(array.shape)}")
    return array


def as_floats(array: NDArray[Any], name: str, dtype: Any = np.float32) -> Floats:
    """Convert an array to `dtype`, or to a wider type that holds its numbers: float64 stays, float16 becomes float32.

    Raises:
        ValueError: The array has NaN or infinity.
    """
    floats: Floats = array.astype(np.result_type(array.dtype, dtype), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(floats.sum())  # the sum of finite numbers may also overflow
    if suspicious and not np.isfinite(floats).all():
        rows = np.flatnonzero(~np.isfinite(np.atleast_2d(floats)).all(axis=1))
        shown = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
        raise ValueError(
            f"{name}: NaN or infinity in {len(rows)} of {len(np.atleast_2d(floats))} vectors (rows {shown}); "
            "leave them out, or check the model that made them"
        )
    return floats


def lengths(vectors: Floats, name: str) -> Floats:
    """The Euclidean norms of vectors along the last axis.

    Raises:
        ValueError: A norm overflows the dtype.
    """
    with np.errstate(over="ignore"):
        norms: Floats = np.sqrt(np.vecdot(vectors, vectors))
    if not np.isfinite(norms).all():
        raise ValueError(f"{name}: the norm of a vector overflows {vectors.dtype}; scale the vector, or pass float64")
    return norms


def scaled(vectors: Floats, name: str) -> Floats:
    """Scale vectors to length 1 along the last axis; zero vectors stay zero."""
    floats: Floats = vectors / np.maximum(lengths(vectors, name), SMALLEST_NORM)[..., np.newaxis]
    return floats


def by_pair(
    a: NDArray[Any],
    b: NDArray[Any],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    function: Callable[[NDArray[Any], NDArray[Any]], Floats],
) -> Floats:
    """Compute `function(a[rows], b[columns])` in chunks of bounded memory."""
    size = max(1, AT_ONCE // max(1, a.shape[1]))
    parts = [slice(start, start + size) for start in range(0, max(1, len(rows)), size)]
    return np.concatenate([function(a[rows[part]], b[columns[part]]) for part in parts])


def _as_numpy(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:  # NumPy has no bfloat16
        return np.asarray(tensor.float())

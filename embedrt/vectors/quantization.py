"""Vector quantization to 8 bits or 1 bit per coordinate, with the codes of sentence-transformers.

int8 and uint8 divide the range of every coordinate into 255 equal steps: code = floor((x - min) / step), clipped to 0
to 255; int8 subtracts 128. Binary keeps the sign: a positive coordinate is a set bit, eight per byte, the first one
highest; `ubinary` is the byte, `binary` the byte minus 128.
"""

import logging
from collections.abc import Sequence
from typing import Any, get_args, overload

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.values import integer, one_of, shown
from embedrt.types import Precision
from embedrt.vectors.arrays import Floats, as_array, as_floats, as_matrix

logger = logging.getLogger("embedrt")

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Ranges from fewer vectors than this are logged as unreliable.
_ENOUGH = 100
_STEPS = 255
_REMEDY = "pass ranges=, or calibration_embeddings= with many vectors, or measure them once with `embedrt ranges`"


@overload
def quantize_embeddings(
    embeddings: NDArray[Any],
    precision: Precision,
    ranges: Any = None,
    calibration_embeddings: Any = None,
) -> NDArray[Any]: ...


@overload
def quantize_embeddings(
    embeddings: Sequence[Any],
    precision: Precision,
    ranges: Any = None,
    calibration_embeddings: Any = None,
) -> NDArray[Any] | list[NDArray[Any]]: ...


def quantize_embeddings(
    embeddings: Any,
    precision: Precision,
    ranges: Any = None,
    calibration_embeddings: Any = None,
) -> NDArray[Any] | list[NDArray[Any]]:
    """Quantize vectors to another precision.

    Args:
        embeddings: `[n, dim]`, one vector `[dim]`, or a list of token matrices `[tokens, dim]`, which share ranges.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges: The minimum and maximum of every coordinate, `[2, dim]`, for "int8" and "uint8" only. None takes the
            ranges of `calibration_embeddings`, else of `embeddings` themselves.
        calibration_embeddings: Vectors like those to quantize, the more the better.

    Returns:
        A new array, or a list of arrays for a list of matrices. "int8" and "uint8" have the shape of the input;
        "binary" (int8) and "ubinary" (uint8) have ceil(dim / 8) bytes per vector; "float32" is the vectors unquantized.

    Raises:
        TypeError: The vectors are quantized already, or not numeric.
        ValueError: The precision is unknown, the ranges do not fit, there is NaN or infinity, or a single vector has no
            range.

    Example:
        >>> quantize_embeddings(vectors, "ubinary").shape  # vectors: (1000, 384)
        (1000, 48)
    """
    precision = one_of(precision, Precision, "precision")
    scalar = precision in {"int8", "uint8"}
    matrices = _matrices(embeddings)
    if matrices is None:
        vectors = _unquantized(as_array(embeddings, "embeddings"))
        if scalar and vectors.size:
            ranges = _ranges(vectors, ranges, calibration_embeddings)
        return _quantize(vectors, precision, ranges)
    matrices = [_unquantized(matrix) for matrix in matrices]
    if scalar and any(matrix.size for matrix in matrices):
        own = np.concatenate(matrices) if ranges is None and calibration_embeddings is None else matrices[0]
        ranges = _ranges(own, ranges, calibration_embeddings)
    return [_quantize(matrix, precision, ranges) for matrix in matrices]


def vector_ranges(embeddings: Any) -> NDArray[np.float32]:
    """Measure the minimum and maximum of every coordinate, for int8 and uint8 vectors.

    Args:
        embeddings: `[n, dim]`, at least two vectors; fewer than 100 log a warning.

    Returns:
        float32 `[2, dim]`.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: There are fewer than two vectors, or there is NaN or infinity.

    Example:
        >>> ranges = vector_ranges(vectors)
        >>> quantize_embeddings(vectors, "int8", ranges)
    """
    return _measured(embeddings, "embeddings")


def dequantize_embeddings(
    embeddings: Any, precision: Precision, ranges: Any = None, dim: int | None = None
) -> NDArray[np.float32]:
    """Dequantize codes to float vectors.

    Args:
        embeddings: Codes from `quantize_embeddings`, `[n, ...]` or one vector.
        precision: The precision of the codes.
        ranges: For "int8" and "uint8", the ranges that they were quantized with.
        dim: For "binary" and "ubinary", the number of coordinates; None takes all bits.

    Returns:
        float32 `[n, dim]` or `[dim]`: for int8 and uint8 the lower end of each step, so at most one step below the
        original value; for bits -1 and 1.

    Raises:
        TypeError: The dtype of the array does not match the precision.
        ValueError: The precision is unknown, or ranges or dim are missing or do not fit.

    Example:
        >>> dequantize_embeddings(codes, "int8", ranges)
    """
    precision = one_of(precision, Precision, "precision")
    codes = as_array(embeddings, "embeddings")
    if precision == "float32":
        return as_floats(codes, "embeddings").astype(np.float32)
    expected = np.dtype(np.int8 if precision in {"int8", "binary"} else np.uint8)
    if codes.dtype != expected:
        raise TypeError(f"embeddings: expected {expected} for precision {precision!r}, got {codes.dtype}")
    if precision in {"int8", "uint8"}:
        if ranges is None:
            raise ValueError(f"ranges: expected the ranges that the {precision} codes were quantized with, got None")
        starts, steps = _steps(check_ranges(ranges, codes.shape[-1]))
        values = codes.astype(np.float32)
        if precision == "int8":
            values += 128
        values *= steps
        values += starts
        return values
    bits = 8 * codes.shape[-1]
    count = integer(dim)
    if dim is not None and (count is None or not bits - 8 < count <= bits):
        raise ValueError(f"dim: expected {bits - 7} to {bits} for vectors of {codes.shape[-1]} bytes, got {shown(dim)}")
    signs = np.unpackbits(packed_bytes(codes), axis=-1, count=count).astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def check_ranges(ranges: Any, dim: int) -> NDArray[np.float32]:
    """Validate ranges, and convert them to float32 `[2, dim]`.

    Raises:
        TypeError: The ranges are not numbers.
        ValueError: The shape differs, a value is not finite, or a minimum is above its maximum.
    """
    try:
        array = as_array(ranges, "ranges")
    except TypeError:
        raise TypeError(
            f"ranges: expected an array [2, {dim}], minimum and maximum of every coordinate, got {shown(ranges)}"
        ) from None
    if array.shape != (2, dim):
        raise ValueError(
            f"ranges: expected the shape [2, {dim}], minimum and maximum of every coordinate, got "
            f"{list(array.shape)}; vector_ranges(embeddings) makes them"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    array = as_floats(array, "ranges")
    if (array[0] > array[1]).any():
        worst = int(np.flatnonzero(array[0] > array[1])[0])
        raise ValueError(
            f"ranges: expected minimum <= maximum, got {array[0, worst]} and {array[1, worst]} at coordinate {worst}; "
            "the first row has the minimums"
        )
    return array


def packed_bytes(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """The packed bytes of "binary" or "ubinary" codes, without the offset of "binary"."""
    return codes.view(np.uint8) ^ np.uint8(128) if codes.dtype == np.int8 else codes


def _matrices(embeddings: Any) -> list[NDArray[Any]] | None:
    """The matrices of a list of token matrices; None for any other input."""
    if not isinstance(embeddings, list | tuple):
        return None
    if not embeddings:
        return []
    if getattr(embeddings[0], "ndim", None) != 2:
        return None
    matrices = [as_array(matrix, f"embeddings[{index}]") for index, matrix in enumerate(embeddings)]
    shapes = {matrix.shape[1:] for matrix in matrices}
    if len(shapes) > 1:
        raise ValueError(f"embeddings: expected token matrices of equal width, got the shapes [tokens, *] {shapes}")
    return matrices


def _unquantized(array: NDArray[Any]) -> Floats:
    if array.dtype in {np.dtype(np.int8), np.dtype(np.uint8)}:
        raise TypeError(f"embeddings: expected float vectors, got {array.dtype}, which are quantized already")
    if array.ndim not in {1, 2}:
        raise ValueError(f"embeddings: expected [dim], [n, dim] or a list of matrices, got {list(array.shape)}")
    return as_floats(array, "embeddings")


def _ranges(vectors: Floats, ranges: Any, calibration_embeddings: Any) -> NDArray[np.float32]:
    if ranges is not None:
        return check_ranges(ranges, vectors.shape[-1])
    if calibration_embeddings is None:
        return _measured(vectors, "embeddings")
    return check_ranges(_measured(calibration_embeddings, "calibration_embeddings"), vectors.shape[-1])


def _measured(embeddings: Any, name: str) -> NDArray[np.float32]:
    vectors = as_floats(as_matrix(embeddings, name), name)
    require_enough(len(vectors))
    if len(vectors) < _ENOUGH:
        logger.warning("ranges for quantization are measured from %d vectors only; %s", len(vectors), _REMEDY)
    return np.stack((vectors.min(axis=0), vectors.max(axis=0))).astype(np.float32)


def require_enough(count: int) -> None:
    """Check that ranges can be measured from so many vectors.

    Raises:
        ValueError: They are fewer than two.
    """
    if count < 2:
        raise ValueError(f"ranges: expected at least 2 vectors to measure, got {count}; {_REMEDY}")


def _steps(ranges: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    steps = (ranges[1] - ranges[0]) / np.float32(_STEPS)
    steps[steps == 0] = 1
    return ranges[0], steps


def _quantize(vectors: Floats, precision: Precision, ranges: NDArray[np.float32] | None) -> NDArray[Any]:
    if precision == "float32":
        return vectors.astype(np.float32)
    if precision in {"binary", "ubinary"}:
        packed = np.packbits(vectors > 0, axis=-1)
        return packed if precision == "ubinary" else (packed ^ np.uint8(128)).view(np.int8)
    if ranges is None:  # nothing to quantize
        return np.empty(vectors.shape, precision)
    starts, steps = _steps(ranges)
    codes = vectors - starts
    codes /= steps
    np.clip(np.floor(codes, out=codes), 0, _STEPS, out=codes)
    if precision == "int8":
        codes -= 128
    return codes.astype(precision)

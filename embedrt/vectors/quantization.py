"""Vectors in fewer bytes: 8 bits or 1 bit a coordinate, with the codes that sentence-transformers gives them.

int8 and uint8 cut the range of every coordinate into 255 equal steps: code = floor((x - min) / step), kept within 0 and
255; int8 is that less 128. Binary keeps the sign: a coordinate above zero is a set bit, eight to a byte, the first one
highest; `ubinary` is the byte, `binary` the byte less 128.
"""

import logging
from collections.abc import Sequence
from typing import Any, get_args, overload

import numpy as np
from numpy.typing import NDArray

from embedrt.types import Precision
from embedrt.vectors.arrays import Floats, as_array, as_floats, as_matrix

logger = logging.getLogger("embedrt")

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Fewer vectors than these tell little of the range of a coordinate.
_ENOUGH = 100
_STEPS = 255
_REMEDY = "pass ranges=, calibration_embeddings= of many vectors, or measure them once: embedrt ranges"


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
    """Vectors in another precision.

    Args:
        embeddings: `[n, dim]`, one vector `[dim]`, or a list of token matrices `[tokens, dim]`, which share their
            ranges.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges: `[2, dim]`, the smallest and the largest value of every coordinate, for "int8" and "uint8"; the others
            need none. None takes those of `calibration_embeddings`, else those of `embeddings` themselves.
        calibration_embeddings: Vectors like those to be quantized, the more the better.

    Returns:
        A new array, or a list of such for a list of matrices. "int8" and "uint8" have the shape of the input, "binary"
        (int8) and "ubinary" (uint8) a byte for every 8 coordinates begun, and "float32" is the vectors themselves.

    Raises:
        TypeError: The vectors are quantized already, or are no numbers.
        ValueError: The precision is unknown, the ranges do not fit, there is NaN or infinity, or only one vector to
            take ranges from.
    """
    _check_precision(precision)
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
    """The smallest and the largest value of every coordinate.

    Args:
        embeddings: `[n, dim]`, at least two; fewer than 100 are warned of in the log.

    Returns:
        float32 `[2, dim]`.

    Raises:
        TypeError: These are no numbers.
        ValueError: There are fewer than two vectors, or there is NaN or infinity.
    """
    return _measured(embeddings, "embeddings")


def dequantize_embeddings(
    embeddings: Any, precision: Precision, ranges: Any = None, dim: int | None = None
) -> NDArray[np.float32]:
    """The float vectors that codes stand for.

    Args:
        embeddings: What `quantize_embeddings` returned, `[n, ...]` or one vector.
        precision: The precision that it was given.
        ranges: For "int8" and "uint8", the ranges that were used.
        dim: For "binary" and "ubinary", the number of coordinates; None takes all bits.

    Returns:
        float32 `[n, dim]` or `[dim]`. From int8 and uint8 the lower end of each step, at most a step from what it was;
        from bits -1 and 1.

    Raises:
        TypeError: The array is not of the precision.
        ValueError: The precision is unknown, or ranges or dim are missing or do not fit.
    """
    _check_precision(precision)
    codes = as_array(embeddings, "embeddings")
    if precision == "float32":
        return as_floats(codes, "embeddings").astype(np.float32)
    expected = np.dtype(np.int8 if precision in {"int8", "binary"} else np.uint8)
    if codes.dtype != expected:
        raise TypeError(f"embeddings: {precision} is kept in {expected}, got {codes.dtype}; is the precision another?")
    if precision in {"int8", "uint8"}:
        if ranges is None:
            raise ValueError(f"ranges: {precision} codes mean nothing without the ranges that made them")
        starts, steps = _steps(check_ranges(ranges, codes.shape[-1]))
        values = codes.astype(np.float32)
        if precision == "int8":
            values += 128
        values *= steps
        values += starts
        return values
    bits = 8 * codes.shape[-1]
    if dim is not None and (type(dim) is not int or not bits - 8 < dim <= bits):
        raise ValueError(f"dim: vectors of {codes.shape[-1]} bytes have {bits - 7} to {bits} coordinates, got {dim!r}")
    signs = np.unpackbits(packed_bytes(codes), axis=-1, count=dim).astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def check_ranges(ranges: Any, dim: int) -> NDArray[np.float32]:
    """Ranges as float32 `[2, dim]`.

    Raises:
        ValueError: They have another shape, are not finite, or a smallest value is above the largest.
    """
    array = as_array(ranges, "ranges")
    if array.shape != (2, dim):
        raise ValueError(
            f"ranges: expected the shape [2, {dim}], smallest and largest value of every coordinate, got "
            f"{list(array.shape)}; vector_ranges(embeddings) makes them"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    array = as_floats(array, "ranges")
    if (array[0] > array[1]).any():
        worst = int(np.flatnonzero(array[0] > array[1])[0])
        raise ValueError(
            f"ranges: the smallest value of coordinate {worst}, {array[0, worst]}, is above its largest, "
            f"{array[1, worst]}; the first row has the smallest values"
        )
    return array


def packed_bytes(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of "binary" or "ubinary" codes as they were packed, without the offset of "binary"."""
    return codes.view(np.uint8) ^ np.uint8(128) if codes.dtype == np.int8 else codes


def _matrices(embeddings: Any) -> list[NDArray[Any]] | None:
    """The matrices of a list of such; None if it is none."""
    if not isinstance(embeddings, list | tuple):
        return None
    if not embeddings:
        return []
    if getattr(embeddings[0], "ndim", None) != 2:
        return None
    matrices = [as_array(matrix, f"embeddings[{index}]") for index, matrix in enumerate(embeddings)]
    shapes = {matrix.shape[1:] for matrix in matrices}
    if len(shapes) > 1:
        raise ValueError(f"embeddings: token matrices of one model have one width, got the shapes [tokens, *] {shapes}")
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
    if len(vectors) < 2:
        raise ValueError(f"ranges: {len(vectors)} vectors have no range of values; {_REMEDY}")
    if len(vectors) < _ENOUGH:
        logger.warning("ranges for quantization are taken from %d vectors only; %s", len(vectors), _REMEDY)
    return np.stack((vectors.min(axis=0), vectors.max(axis=0))).astype(np.float32)


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


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}")

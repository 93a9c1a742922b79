"""Codes against their definition, the ways back, and what is refused."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from embedrt.types import Precision
from embedrt.vectors.quantization import (
    PRECISIONS,
    dequantize_embeddings,
    quantize_embeddings,
    vector_ranges,
)

CODES = [precision for precision in PRECISIONS if precision != "float32"]
SCALARS: list[Precision] = ["int8", "uint8"]
DTYPES = {"float32": np.float32, "int8": np.int8, "uint8": np.uint8, "binary": np.int8, "ubinary": np.uint8}


def some(count: int = 120, dim: int = 10, dtype: Any = np.float32, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(dtype)


VECTORS = st.tuples(st.integers(1, 6), st.integers(1, 20)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-3, 3, width=16))
)


@given(VECTORS)
def test_bits_are_the_signs(vectors: NDArray[Any]) -> None:
    texts = ["".join("1" if x > 0 else "0" for x in row) for row in vectors]
    width = range(0, vectors.shape[1], 8)
    expected = np.array([[int(text[i : i + 8].ljust(8, "0"), 2) for i in width] for text in texts])
    ubinary, binary = quantize_embeddings(vectors, "ubinary"), quantize_embeddings(vectors, "binary")
    assert [ubinary.dtype, binary.dtype] == [np.dtype(np.uint8), np.dtype(np.int8)]
    np.testing.assert_array_equal(ubinary, expected)
    np.testing.assert_array_equal(binary.astype(int), expected - 128)
    for precision, codes in (("ubinary", ubinary), ("binary", binary)):
        signs = dequantize_embeddings(codes, precision, dim=vectors.shape[1])  # type: ignore[arg-type]
        np.testing.assert_array_equal(signs, np.where(vectors > 0, 1, -1))


@given(VECTORS)
def test_scalars_are_the_steps(vectors: NDArray[Any]) -> None:
    ranges = np.array([[-2.0] * vectors.shape[1], [3.1] * vectors.shape[1]], np.float32)
    ranges[:, 0] = 1.5  # a coordinate that never changes
    step = (ranges[1] - ranges[0]) / np.float32(255)
    step[0] = 1
    expected = np.clip(np.floor((vectors - ranges[0]) / step), 0, 255)
    np.testing.assert_array_equal(quantize_embeddings(vectors, "uint8", ranges), expected)
    np.testing.assert_array_equal(quantize_embeddings(vectors, "int8", ranges), expected - 128)
    for precision in SCALARS:
        codes = quantize_embeddings(vectors, precision, ranges)
        assert codes.dtype == DTYPES[precision]
        back = dequantize_embeddings(codes, precision, ranges)
        assert back.dtype == np.float32
        within = (vectors >= ranges[0]) & (vectors <= ranges[1])
        error = vectors - back
        assert (error >= -1e-6)[within].all()
        assert (error <= step + 1e-6)[within].all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_forms_of_the_input(precision: Precision, dtype: Any) -> None:
    vectors = some(dtype=dtype)
    before = vectors.copy()
    vectors.setflags(write=False)
    ranges = vector_ranges(vectors)
    codes = quantize_embeddings(vectors, precision, ranges)
    assert codes.dtype == DTYPES[precision]
    assert codes.shape == (120, 2 if "binary" in precision else 10)
    assert not np.shares_memory(codes, vectors)
    for same in (list(vectors), vectors[::-1][::-1], np.asfortranarray(vectors)):
        np.testing.assert_array_equal(quantize_embeddings(same, precision, ranges), codes)
    np.testing.assert_array_equal(quantize_embeddings(vectors[3], precision, ranges), codes[3])
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("precision", SCALARS)
def test_where_ranges_come_from(precision: Precision) -> None:
    vectors, calibration = some(), some(150, seed=1)
    own = quantize_embeddings(vectors, precision)
    np.testing.assert_array_equal(own, quantize_embeddings(vectors, precision, vector_ranges(vectors)))
    calibrated = quantize_embeddings(vectors, precision, calibration_embeddings=calibration)
    np.testing.assert_array_equal(calibrated, quantize_embeddings(vectors, precision, vector_ranges(calibration)))
    assert (own != calibrated).any()
    both = quantize_embeddings(vectors, precision, vector_ranges(vectors), calibration)
    np.testing.assert_array_equal(both, own)
    alone = quantize_embeddings(vectors[0], precision, calibration_embeddings=calibration)
    np.testing.assert_array_equal(alone, calibrated[0])


def test_vector_ranges() -> None:
    vectors = some(dtype=np.float64)
    ranges = vector_ranges(vectors)
    assert ranges.dtype == np.float32
    assert ranges.shape == (2, 10)
    np.testing.assert_array_equal(ranges, np.array([vectors.min(axis=0), vectors.max(axis=0)], np.float32))


@pytest.mark.parametrize("precision", SCALARS)
def test_token_matrices_share_their_ranges(precision: Precision) -> None:
    matrices = [some(70), some(0), some(50, seed=2)]
    found = quantize_embeddings(matrices, precision)
    ranges = vector_ranges(np.concatenate(matrices))
    assert isinstance(found, list)
    for codes, matrix in zip(found, matrices, strict=True):
        np.testing.assert_array_equal(codes, quantize_embeddings(matrix, precision, ranges))
    given_ranges = quantize_embeddings(matrices, precision, 2 * ranges)
    np.testing.assert_array_equal(given_ranges[0], quantize_embeddings(matrices[0], precision, 2 * ranges))
    calibrated = quantize_embeddings(matrices, precision, calibration_embeddings=some(200, seed=3))
    np.testing.assert_array_equal(
        calibrated[2], quantize_embeddings(matrices[2], precision, vector_ranges(some(200, seed=3)))
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_to_quantize(precision: Precision) -> None:
    width = 2 if "binary" in precision else 10
    empty = quantize_embeddings(some(0), precision)
    assert empty.shape == (0, width)
    assert empty.dtype == DTYPES[precision]
    assert quantize_embeddings([], precision) == []
    found = quantize_embeddings([some(0), some(0)], precision)
    assert [(codes.shape, codes.dtype) for codes in found] == [((0, width), DTYPES[precision])] * 2
    assert quantize_embeddings(np.array([]), precision).shape == (0,)


@pytest.mark.parametrize("precision", SCALARS)
@pytest.mark.parametrize("alone", [some()[0], some(1), [some(1)], list(some(1))], ids=["1-D", "2-D", "tokens", "list"])
def test_one_vector_has_no_ranges(alone: Any, precision: Precision) -> None:
    with pytest.raises(ValueError, match=r"expected at least 2 vectors to measure, got 1; .*`embedrt ranges`"):
        quantize_embeddings(alone, precision)


@pytest.mark.parametrize("precision", SCALARS)
def test_calibration_embeddings_are_checked(precision: Precision) -> None:
    for alone in (some()[0], some(1), list(some(1))):
        with pytest.raises(ValueError, match="expected at least 2 vectors to measure, got 1"):
            quantize_embeddings(some(), precision, calibration_embeddings=alone)
    with pytest.raises(ValueError, match="calibration_embeddings: NaN or infinity"):
        quantize_embeddings(some(), precision, calibration_embeddings=some() * np.nan)


def test_few_vectors_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="embedrt"):
        vector_ranges(some(100))
        quantize_embeddings(some(4), "binary")
        quantize_embeddings(some(4), "int8", vector_ranges(some(100)))
    assert not caplog.records
    quantize_embeddings(some(99), "int8")
    assert [record.name for record in caplog.records] == ["embedrt"]
    assert "from 99 vectors only; pass ranges=" in caplog.text


@pytest.mark.parametrize("precision", SCALARS)
def test_ranges_that_do_not_fit(precision: Precision) -> None:
    vectors, ranges = some(), vector_ranges(some())
    for wrong in (ranges.T, ranges[0], ranges[:, :9], np.stack([ranges] * 2)):
        with pytest.raises(ValueError, match=r"ranges: expected the shape \[2, 10\], .* vector_ranges\(embeddings\)"):
            quantize_embeddings(vectors, precision, wrong)
    with pytest.raises(ValueError, match=r"ranges: expected minimum <= maximum, got .* and .* at coordinate 0"):
        quantize_embeddings(vectors, precision, ranges[::-1])
    for bad in (np.nan, np.inf, 1e300):
        broken = ranges.astype(np.float64)
        broken[1, 4] = bad
        with pytest.raises(ValueError, match="ranges: NaN or infinity"):
            quantize_embeddings(vectors, precision, broken)
        with pytest.raises(ValueError, match="ranges: NaN or infinity"):
            dequantize_embeddings(quantize_embeddings(vectors, precision), precision, broken)
    with pytest.raises(ValueError, match=r"ranges: expected the shape \[2, 10\]"):
        quantize_embeddings(vectors, precision, calibration_embeddings=some(dim=11))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_cannot_be_quantized(precision: Precision) -> None:
    for codes in (np.zeros((3, 10), np.int8), np.zeros((3, 10), np.uint8), [np.zeros((3, 10), np.int8)]):
        with pytest.raises(TypeError, match=r"expected float vectors, got u?int8, which are quantized already"):
            quantize_embeddings(codes, precision)
    broken = some()
    broken[5, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 120 vectors"):
        quantize_embeddings(broken, precision)
    with pytest.raises(TypeError, match="got text; encode it first"):
        quantize_embeddings("a text", precision)
    with pytest.raises(ValueError, match=r"expected \[dim\], \[n, dim\] or a list of matrices, got \[2, 3, 4\]"):
        quantize_embeddings(np.zeros((2, 3, 4)), precision)
    with pytest.raises(ValueError, match="expected token matrices of equal width"):
        quantize_embeddings([some(), some(dim=11)], precision)


def test_unknown_precision() -> None:
    for function in (quantize_embeddings, dequantize_embeddings):
        wrongs: list[Any] = ["int4", "", None, ["int8"]]
        for wrong in wrongs:
            with pytest.raises(ValueError, match="precision: expected one of 'float32', 'int8', 'uint8', 'binary'"):
                function(some(), wrong)


def test_dequantize_refuses() -> None:
    with pytest.raises(ValueError, match="ranges: expected the ranges that the int8 codes were quantized with"):
        dequantize_embeddings(np.zeros((2, 3), np.int8), "int8")
    for precision, codes in (("int8", np.zeros(3, np.uint8)), ("ubinary", np.zeros(3, np.int8)), ("uint8", some())):
        with pytest.raises(TypeError, match=f"expected u?int8 for precision {precision!r}, got "):
            dequantize_embeddings(codes, precision, np.zeros((2, 3)))  # type: ignore[arg-type]
    for dim in (8, 17, 0, True):
        with pytest.raises(ValueError, match=r"dim: expected 9 to 16 for vectors of 2 bytes, got"):
            dequantize_embeddings(np.zeros((1, 2), np.uint8), "ubinary", dim=dim)


def test_dequantize_forms() -> None:
    vectors = some(dtype=np.float64)
    same = dequantize_embeddings(vectors, "float32")
    np.testing.assert_array_equal(same, vectors.astype(np.float32))
    assert dequantize_embeddings(np.zeros((0, 10), np.uint8), "uint8", np.zeros((2, 10))).shape == (0, 10)
    assert dequantize_embeddings(np.zeros((0, 2), np.int8), "binary").shape == (0, 16)
    codes = quantize_embeddings(vectors, "int8")
    ranges = vector_ranges(vectors)
    np.testing.assert_array_equal(
        dequantize_embeddings(codes[7], "int8", ranges), dequantize_embeddings(codes, "int8", ranges)[7]
    )


@pytest.mark.parametrize("name", CODES)
def test_every_code_has_a_vector(name: Precision) -> None:
    """Codes come back from their vectors: the lower ends of the steps, and the signs."""
    codes = np.random.default_rng(0).integers(0, 256, (50, 4)).astype(np.uint8).view(DTYPES[name])
    ranges = np.array([[0.0] * 4, [255.0] * 4], np.float32)
    vectors = dequantize_embeddings(codes, name, ranges)
    np.testing.assert_array_equal(quantize_embeddings(vectors, name, ranges), codes)

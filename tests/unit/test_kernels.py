"""Products in 8 bits are tried out before an int8 graph runs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedrt.engine import int8_saturation as kernels
from embedrt.errors import DeviceError


def product() -> onnx.ModelProto:
    """The graph whose bytes `kernels` has, because the runtime does without onnx."""
    tensors = [
        numpy_helper.from_array(np.full((8, 16), 127, np.int8), "weight"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "weight", "one", "one", "zero"], ["y"], domain="com.microsoft"
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])]
    graph = helper.make_graph([node], "product", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_the_product_is_the_one_described() -> None:
    assert onnx.load_from_string(kernels.PRODUCT) == product()


def test_kernels_that_cut_off_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.exact_int8.cache_clear()
    monkeypatch.setattr(kernels, "_LARGEST", 32767 * 4)  # what pairs of products in 16 bits add up to
    try:
        with pytest.raises(DeviceError, match="dtype='float32'"):
            kernels.require_exact_int8()
    finally:
        kernels.exact_int8.cache_clear()

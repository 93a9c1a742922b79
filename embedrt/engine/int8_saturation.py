"""Whether the processor's kernels for 8 bits compute what they should.

A kernel without VNNI, AMX or their like adds pairs of products in 16 bits and cuts off what is larger. On such a
machine the vectors of an int8 graph would be wrong without a word.
"""

import base64
from functools import cache

import numpy as np

from embedrt.engine.session import onnxruntime
from embedrt.errors import DeviceError

# `MatMulIntegerToFloat(x, weight)`, x: uint8 [rows, 8], weight: int8 [8, 16] all 127, scales 1, zero point 0.
PRODUCT = base64.b64decode(
    "CAk6sAIKQwoBeAoGd2VpZ2h0CgNvbmUKA29uZQoEemVybxIBeSIUTWF0TXVsSW50ZWdlclRvRmxvYXQ6DWNvbS5taWNyb3NvZnQS"
    "B3Byb2R1Y3QqkQEICAgQEANCBndlaWdodEqAAX9/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/"
    "f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/"
    "f39/f39/Kg0QAUIDb25lSgQAAIA/KgsQAkIEemVyb0oBAFoXCgF4EhIKEAgCEgwKBhIEcm93cwoCCAhiFwoBeRISChAIARIMCgYS"
    "BHJvd3MKAggQQgQKABAUQhEKDWNvbS5taWNyb3NvZnQQAQ=="
)
_LARGEST = 255 * 127 * 8


@cache
def exact_int8() -> bool:
    """Whether products of the largest numbers are exact."""
    session = onnxruntime().InferenceSession(PRODUCT, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((4, 8), 255, np.uint8)})
    return bool((found == _LARGEST).all())


def require_exact_int8() -> None:
    """Refuses a processor whose kernels cut off large sums.

    Raises:
        DeviceError: It has no instructions that multiply 8 bits exactly.
    """
    if not exact_int8():
        raise DeviceError(
            "dtype 'int8': this processor has no VNNI (or AMX, or arm's dot product), and ONNX Runtime's kernels "
            "for it cut off large sums; use dtype='float32'"
        )

"""Int8 kernels that saturate: found by a probe, and avoided by a session option.

ONNX Runtime's u8 x s8 kernels for AVX2 and for AVX-512 without VNNI add pairs of 8-bit products in 16 bits, where large
sums saturate. On such a CPU the vectors of an int8 graph would be silently wrong. The session option
`session.x64quantprecision` selects kernels for u8 x u8 instead, which are exact and slower, so it is set only where it
is needed.
"""

import base64
from collections.abc import Mapping
from functools import cache

import numpy as np

from embedrt.engine.native import call_native
from embedrt.engine.session import plain_session
from embedrt.errors import DeviceError

# `MatMulIntegerToFloat(x, weight)`, x: uint8 [rows, 8], weight: int8 [8, 16] all 127, scales 1, zero point 0. The
# runtime does without the onnx package; tests/unit/test_int8_saturation.py has the code that makes these bytes.
PROBE = base64.b64decode(
    "CAk6sAIKQwoBeAoGd2VpZ2h0CgNvbmUKA29uZQoEemVybxIBeSIUTWF0TXVsSW50ZWdlclRvRmxvYXQ6DWNvbS5taWNyb3NvZnQS"
    "B3Byb2R1Y3QqkQEICAgQEANCBndlaWdodEqAAX9/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/"
    "f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/"
    "f39/f39/Kg0QAUIDb25lSgQAAIA/KgsQAkIEemVyb0oBAFoXCgF4EhIKEAgCEgwKBhIEcm93cwoCCAhiFwoBeRISChAIARIMCgYS"
    "BHJvd3MKAggQQgQKABAUQhEKDWNvbS5taWNyb3NvZnQQAQ=="
)
# The session options to try, the fastest kernels first.
CONFIGS: tuple[Mapping[str, str], ...] = ({}, {"session.x64quantprecision": "1"})
_EXACT = 255 * 127 * 8


def is_exact(config: Mapping[str, str]) -> bool:
    """Multiply the largest 8-bit numbers under a session config; true if no sum saturates."""
    (found,) = plain_session(PROBE, config=config).run(None, {"x": np.full((4, 8), 255, np.uint8)})
    return bool((found == _EXACT).all())


@cache
def exact_config() -> Mapping[str, str]:
    """The session config under which this CPU's int8 kernels are exact.

    Raises:
        DeviceError: The kernels saturate under every config.
    """
    for config in CONFIGS:
        if call_native(is_exact, config):
            return config
    raise DeviceError(
        "dtype 'int8': ONNX Runtime's int8 kernels saturate on this CPU, so its vectors would be wrong; use "
        "dtype='float32'"
    )

"""Int8 kernels that saturate: found by a probe, and avoided by a session option.

ONNX Runtime's u8 x s8 kernels for AVX2 and for AVX-512 without VNNI add pairs of 8-bit products in 16 bits, where large
sums saturate. On such a CPU the vectors of an int8 graph would be silently wrong. Exports bound pairs of weights, so
that no sum does: 255 * 128 fits. For other weights, the session option `session.x64quantprecision` selects kernels for
u8 x u8, which are exact and slower, so it is set only where it is needed.
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
_PROBE_WEIGHT = bytes([127]) * 8 * 16
# The session options to try, the fastest kernels first.
CONFIGS: tuple[Mapping[str, str], ...] = ({}, {"session.x64quantprecision": "1"})
ANY_PAIR = 254
"""The largest pair of any weights from -127 to 127."""


def is_exact(config: Mapping[str, str], largest_pair: int) -> bool:
    """Multiply the largest activations by the largest pairs of weights; true if no sum saturates.

    Args:
        config: The session config.
        largest_pair: The largest sum of two weights in adjacent rows.
    """
    pair = [largest_pair - largest_pair // 2, largest_pair // 2]
    rows = [row for weight in 4 * pair for row in 16 * [weight]]
    probe = PROBE.replace(_PROBE_WEIGHT, bytes(rows))
    (found,) = plain_session(probe, config=config).run(None, {"x": np.full((4, 8), 255, np.uint8)})
    return bool((found == 255 * 4 * largest_pair).all())


@cache
def exact_config(largest_pair: int | None = None) -> Mapping[str, str]:
    """The session config under which this CPU's int8 kernels are exact, and fastest.

    Args:
        largest_pair: The largest pair of the graph's weights; see `Variant`. None is for any weights.

    Raises:
        DeviceError: The kernels saturate under every config.
    """
    for config in CONFIGS:
        if call_native(is_exact, config, ANY_PAIR if largest_pair is None else largest_pair):
            return config
    raise DeviceError(
        "dtype 'int8': ONNX Runtime's int8 kernels saturate on this CPU, so its vectors would be wrong; use "
        "dtype='float32'"
    )


def relies_on(largest_pair: int | None) -> bool:
    """True if the kernels are exact only as long as the graph's weights keep to its largest pair."""
    config = exact_config(largest_pair)
    return not call_native(is_exact, config, ANY_PAIR)

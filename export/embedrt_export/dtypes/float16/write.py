"""The last step of a draft: floats get their dtype, and weights their place in a data file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embedrt._version import __version__
from embedrt_export.dtypes.float16.values import Region, Values
from embedrt_export.graph.builder import DRAFT, FLOAT, needed
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.opsets import MICROSOFT

OPSET = 23
ELEMENTS = {
    "float32": FLOAT,
    "float16": int(TensorProto.FLOAT16),
    "bfloat16": int(TensorProto.BFLOAT16),
}
NUMPY: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
"""NumPy's type of the weights, by dtype."""
# Part of a dtype's range that a masked score takes: far below every other one, and still within the range with a bias.
_MASKED = 0.4
Weight = Callable[[], NDArray[Any]]
"""Makes the values of a weight or constant."""
_OPSETS = {"": OPSET, MICROSOFT: 1}


def typed_nodes(
    nodes: Iterable[onnx.NodeProto], region: Callable[[onnx.NodeProto], Region], values: Values, element: int
) -> list[onnx.NodeProto]:
    """Replace the operators of drafts, and name the weights by the dtype that their readers need.

    Args:
        nodes: Nodes whose floats have no dtype yet.
        region: The dtype in which a node reads floats.
        values: The values of the draft.
        element: The dtype of the hidden states.
    """
    typed = []
    for node in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        if node.domain == DRAFT:
            copied.domain = ""
            if node.op_type == "RMSNorm":
                copied.op_type = "RMSNormalization"
                copied.attribute.append(helper.make_attribute("axis", -1))
            else:
                copied.op_type = "Cast"
                copied.attribute.append(helper.make_attribute("to", FLOAT if node.op_type == "ToFloat" else element))
        elif region(node) == "float32":
            for i, name in enumerate(node.input):
                if name in values.constants and values.is_float(name):
                    copied.input[i] = _in_float32(name)
        typed.append(copied)
    return typed


def _in_float32(name: str) -> str:
    return f"{name} in float32"


def write(
    file: Path,
    data: DataFile,
    nodes: Sequence[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    arrays: Mapping[str, Weight],
    dtype: str,
) -> tuple[str, ...]:
    """Write a graph with the weights that it needs.

    Args:
        file: The file to write.
        data: File for its weights, beside it.
        nodes: The nodes, in order.
        inputs: All inputs.
        outputs: The outputs.
        arrays: The weights and constants by name.
        dtype: The dtype of the hidden states.

    Returns:
        The names of the inputs that it needs.
    """
    nodes = needed(list(nodes), [output.name for output in outputs])
    read = {name for node in nodes for name in node.input}
    tensors = []
    for name in sorted(read):
        plain = name.removesuffix(_in_float32(""))
        if name in arrays:
            tensors.append(data.tensor(name, _narrowed(arrays[name](), dtype, name)))
        elif plain in arrays:
            tensors.append(data.tensor(name, np.asarray(arrays[plain](), order="C")))
    data.flush()
    used = [value for value in inputs if value.name in read]
    graph = helper.make_graph(nodes, "embedrt", used, outputs, tensors)
    domains = {node.domain for node in nodes} | {""}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, _OPSETS[domain]) for domain in sorted(domains)],
        ir_version=10,
        producer_name="embedrt",
        producer_version=__version__,
    )
    onnx.save_model(model, file)
    return tuple(value.name for value in used)


def _narrowed(array: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    """A weight in the dtype of the hidden states; integers stay as they are.

    Raises:
        OverflowError: A value is beyond the dtype's range.
    """
    if array.dtype.kind in "iub":
        return np.asarray(array, order="C")
    largest = float(ml_dtypes.finfo(NUMPY[dtype]).max)
    if array.ndim == 0:  # the lowest float of a mask, to which scores are added
        array = np.clip(array, -_MASKED * largest, _MASKED * largest)
    elif not np.abs(array).max(initial=0.0) <= largest:
        raise OverflowError(f"{name.removesuffix('.T')}: {np.abs(array).max():.3g} is beyond the range of {dtype}")
    return np.asarray(array.astype(NUMPY[dtype]), order="C")

"""Nodes of older opsets of ONNX, rewritten so that they mean the same in a later one.

From opset to opset most operators only learn types and optional attributes. Those that text encoders have and that
changed otherwise are rewritten here; whatever is in neither table is refused, because its meaning may have changed.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import subgraphs

OLDEST = 11
STANDARD = {"", "ai.onnx"}
"""The two names of the domain of standard operators."""

# Since opset 11 these learned types, or attributes and inputs whose absence means what it meant before.
_ONLY_GREW = frozenset(
    "Abs Add And ArgMax ArgMin Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv Cos CumSum "  # noqa: SIM905
    "DequantizeLinear Div Elu Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gemm "
    "GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity If "
    "InstanceNormalization IsInf IsNaN LSTM LeakyRelu Less LessOrEqual Log Loop LpNormalization MatMul Max Mean "
    "Min Mish Mod Mul Neg NonZero Not Or PRelu Pad Pow QuantizeLinear RNN Reciprocal Relu Reshape Round Scan "
    "ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softplus Softsign Sqrt Sub Sum Tan Tanh "
    "ThresholdedRelu Tile Transpose Where".split()
)


def upgrade(nodes: Iterable[onnx.NodeProto], version: int, target: int, where: str) -> list[onnx.NodeProto]:
    """Rewrites the standard operators of a graph and of the graphs inside it; other domains stay as they are.

    Args:
        nodes: Nodes of opset `version`.
        version: At least `OLDEST`.
        target: A later opset, or the same.
        where: How messages name the file.

    Raises:
        UnsupportedModelError: An operator is unknown, or changed in a way that is not known here; it is named.
    """
    upgraded: list[onnx.NodeProto] = []
    for node in nodes:
        for graph in subgraphs(node):
            inner = upgrade(graph.node, version, target, where)
            del graph.node[:]
            graph.node.extend(inner)
        upgraded += _upgraded(node, version, target, where) if node.domain in STANDARD else [node]
    return upgraded


def _upgraded(node: onnx.NodeProto, version: int, target: int, where: str) -> list[onnx.NodeProto]:
    known, wanted = (_since(node.op_type, opset) for opset in (version, target))
    if known is None:
        raise UnsupportedModelError(f"{where}: ONNX has no operator {node.op_type!r} in opset {version}")
    if known == wanted or node.op_type in _ONLY_GREW:
        return [node]
    if node.op_type not in _REWRITES:
        raise UnsupportedModelError(
            f"{where}: the operator {node.op_type} changed between opset {version} and {target}; "
            f"export the ONNX file again with opset {target}"
        )
    return _REWRITES[node.op_type](node, where)


def _since(op_type: str, opset: int) -> int | None:
    """The opset in which an operator got the meaning that it has in `opset`."""
    try:
        return int(defs.get_schema(op_type, opset, "").since_version)
    except defs.SchemaError:
        return None


def _axes_as_input(node: onnx.NodeProto, _: str) -> list[onnx.NodeProto]:
    """Squeeze, Unsqueeze and the reductions."""
    return _attribute_as_input(node, "axes")


def _split(node: onnx.NodeProto, _: str) -> list[onnx.NodeProto]:
    nodes = _attribute_as_input(node, "split")
    if len(node.input) == 1:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    return nodes


def _attribute_as_input(node: onnx.NodeProto, name: str) -> list[onnx.NodeProto]:
    values = _take(node, name)
    if values is None:
        return [node]
    constant = f"{node.output[0]}/{name}"
    tensor = numpy_helper.from_array(np.array(values, np.int64), constant)
    node.input.append(constant)
    return [helper.make_node("Constant", [], [constant], value=tensor), node]


def _softmax(node: onnx.NodeProto, _: str) -> list[onnx.NodeProto]:
    """Before opset 13 Softmax flattened what it got to a matrix at its axis, which was 1 by default."""
    axis = _take(node, "axis")
    node.attribute.append(helper.make_attribute("axis", -1))
    if axis == -1:
        return [node]
    x, y = node.input[0], node.output[0]
    shape, flat, computed = (f"{y}/{part}" for part in ("shape", "flat", "computed"))
    node.input[0], node.output[0] = flat, computed
    return [
        helper.make_node("Shape", [x], [shape]),
        helper.make_node("Flatten", [x], [flat], axis=1 if axis is None else axis),
        node,
        helper.make_node("Reshape", [computed, shape], [y]),
    ]


def _dropout(node: onnx.NodeProto, _: str) -> list[onnx.NodeProto]:
    _take(node, "ratio")  # it matters to training alone
    return [node]


def _batch_normalization(node: onnx.NodeProto, where: str) -> list[onnx.NodeProto]:
    if len(node.output) > 1:
        raise UnsupportedModelError(f"{where}: BatchNormalization with {len(node.output)} outputs is for training")
    return [node]


def _take(node: onnx.NodeProto, name: str) -> int | list[int] | None:
    """Removes an attribute and returns its value."""
    for i, attribute in enumerate(node.attribute):
        if attribute.name == name:
            value: int | list[int] = helper.get_attribute_value(attribute)
            del node.attribute[i]
            return value
    return None


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_REWRITES: dict[str, Callable[[onnx.NodeProto, str], list[onnx.NodeProto]]] = {
    **{f"Reduce{kind}": _axes_as_input for kind in _REDUCTIONS},
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "Hardmax": _softmax,
    "LogSoftmax": _softmax,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _axes_as_input,
    "Unsqueeze": _axes_as_input,
}

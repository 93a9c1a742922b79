"""Rows that are picked before they are computed: the last layer of a model that reads one token of each text.

A head that pools by its first or last token picks one row of `[batch, sequence, width]`. What the last layer computes
after its attention, row by row, is then needed for these rows alone: of a layer of BERT, three quarters of the linear
layers. So the rows are picked from what comes before: from the attention's output and the input of the layer.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from embedrt_export.graph.builder import names_read

# Operators that combine each value with those at the same place, or with constants.
_BY_VALUE = frozenset(
    {
        *("Add", "Clip", "Div", "Erf", "Gelu", "HardSwish", "LeakyRelu", "Max", "Mish", "Mul", "Neg", "Relu"),
        *("Reciprocal", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
    }
)
_LAST_AXIS = -1


def pick_early(model: onnx.ModelProto) -> bool:
    """Pick rows as early as possible, in place.

    Args:
        model: A graph of `GraphBuilder`, with its weights in a data file or in the graph.

    Returns:
        True if the graph changed.
    """
    nodes, makers = list(model.graph.node), _makers(model.graph.node)
    reads = Counter(name for node in nodes for name in names_read(node))
    reads.update(output.name for output in model.graph.output)
    for pick in nodes:
        laid_out = makers.get(pick.input[0]) if pick.op_type == "GatherND" else None
        if laid_out is None or laid_out.op_type != "Reshape" or laid_out.input[1] not in makers:
            continue
        if reads[laid_out.output[0]] == reads[laid_out.input[0]] == 1:
            moved, leaves = _moved(model, laid_out)
            if moved:
                _move(model, pick, laid_out, moved, leaves)
            return bool(moved)
    return False


def _makers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    return {name: node for node in nodes for name in node.output}


def _moved(model: onnx.ModelProto, laid_out: onnx.NodeProto) -> tuple[list[onnx.NodeProto], list[str]]:
    """The nodes that work row by row and that only the picked rows need, and the values that they start from."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    with_tokens = _with_tokens(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in names_read(node):
            readers.setdefault(name, []).append(node)
    rows = {laid_out.input[0]: True}
    moved: list[onnx.NodeProto] = []
    within = {laid_out.name}
    for node in reversed(model.graph.node):
        if len(node.output) != 1 or node.output[0] not in rows or not _is_by_row(node, constants, with_tokens):
            continue
        if all(reader.name in within for reader in readers[node.output[0]]):
            moved.append(node)
            within.add(node.name)
            rows.update(dict.fromkeys((name for name in node.input if name and name not in constants), True))
    made = {node.output[0] for node in moved}
    return moved[::-1], [name for name in rows if name not in made]


def _with_tokens(model: onnx.ModelProto) -> set[str]:
    """The values `[tokens, width]`: with two axes, of which the first depends on the texts."""
    axes = {
        value.name: value.type.tensor_type.shape.dim for value in shape_inference.infer_shapes(model).graph.value_info
    }
    return {name for name, dims in axes.items() if len(dims) == 2 and not dims[0].HasField("dim_value")}


def _is_by_row(node: onnx.NodeProto, constants: dict[str, TensorProto], with_tokens: set[str]) -> bool:
    """True if each row `[width]` of the output depends on that row of the inputs alone, and on constants."""
    given = [name for name in node.input if name and name not in constants]
    if node.domain or not given or not with_tokens.issuperset((*given, node.output[0])):
        return False
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Gemm":
        return attributes == {"transB": 1} and given == [node.input[0]]
    if node.op_type == "LayerNormalization":
        return attributes.get("axis") == _LAST_AXIS and given == [node.input[0]]
    if node.op_type == "ReduceMean":
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist() if node.input[1] in constants else None
        return attributes.get("keepdims") == 1 and axes == [_LAST_AXIS]
    # A constant with a row for every token would not fit the picked rows.
    return node.op_type in _BY_VALUE and all(len(constants[name].dims) <= 1 for name in node.input if name in constants)


def _move(
    model: onnx.ModelProto,
    pick: onnx.NodeProto,
    laid_out: onnx.NodeProto,
    moved: list[onnx.NodeProto],
    leaves: list[str],
) -> None:
    """Pick the rows of the leaves, and compute the moved nodes behind that."""
    shape = laid_out.input[1]
    sizes = _makers(model.graph.node)[shape].input[0]  # batch and sequence, before the width
    (width,) = _constant(model, "early_rows/width", [-1])
    added = [helper.make_node("Concat", [sizes, width], ["early_rows/shape"], name="early_rows/shape", axis=0)]
    picked = {}
    for i, leaf in enumerate(leaves):
        tokens, picked[leaf] = f"early_rows/{i}/tokens", f"early_rows/{i}"
        added.append(helper.make_node("Reshape", [leaf, "early_rows/shape"], [tokens], name=tokens))
        added.append(
            helper.make_node("GatherND", [tokens, pick.input[1]], [picked[leaf]], name=picked[leaf], batch_dims=1)
        )
    dropped = {node.name for node in (pick, laid_out, *moved)}
    for node in moved:
        node.input[:] = [picked.get(name, name) for name in node.input]
    last = moved[-1]
    last.output[0] = pick.output[0]
    kept = [node for node in model.graph.node if node.name not in dropped]
    ordered = _in_order([*kept, *added, *moved], model)
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _constant(model: onnx.ModelProto, name: str, values: list[int]) -> list[str]:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return [name]


def _in_order(nodes: list[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes in an order in which they can be computed: each as early as its inputs allow, else as given."""
    known = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer} | {""}
    left, ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes], []
    while left:
        ready = [node for node in left if known >= set(node.input)]
        waiting: list[onnx.NodeProto] = []
        for node in left:
            if known >= set(node.input):
                known.update(node.output)
                ordered.append(node)
            else:
                waiting.append(node)
        if not ready and len(waiting) == len(left):
            raise ValueError("graph: a cycle")
        left = waiting
    return ordered

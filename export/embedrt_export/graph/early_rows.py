"""Rows that are picked before they are computed: the last layer of a model that reads one token of each text.

A head that pools by its first or last token picks one row of `[batch, sequence, width]`. What the last layer computes
row by row is then needed for these rows alone: of a layer of BERT, ten twelfths of the linear layers, and the attention
of one query. So the rows are picked from the input of the layer, or from the attention's output where its bias depends
on the query.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedrt_export.graph.builder import names_read, needed
from embedrt_export.graph.values import DiffersError, Values

# Operators that combine each value with those at the same place, or with constants.
_BY_VALUE = frozenset(
    {
        *("Add", "Clip", "Div", "Erf", "Gelu", "HardSwish", "LeakyRelu", "Max", "Mish", "Mul", "Neg", "Relu"),
        *("Reciprocal", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
    }
)
_LAST_AXIS, _BY_HEAD = -1, [0, 2, 1, 3]


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
    values, found = Values(model), set()
    for node in model.graph.node:
        for name in node.output:
            with suppress(DiffersError):
                shape = values.shape(name)
                if len(shape) == 2 and shape[0] is None:
                    found.add(name)
    return found


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
    sizes = _makers(model.graph.node)[laid_out.input[1]].input[0]  # batch and sequence, before the width
    picker = _Picker(model, pick.input[1], sizes)
    picked = {leaf: picker.rows(leaf) for leaf in leaves}
    dropped = {node.name for node in (pick, laid_out, *moved)}
    for node in moved:
        node.input[:] = [picked.get(name, name) for name in node.input]
    moved[-1].output[0] = pick.output[0]
    kept = [node for node in model.graph.node if node.name not in dropped]
    ordered = _in_order([*kept, *picker.nodes, *moved], model)
    nodes = needed(ordered, [output.name for output in model.graph.output])
    read = {name for node in nodes for name in names_read(node)}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)


class _Picker:
    """Nodes that pick one row of each text.

    Args:
        model: The graph, to which constants are added.
        index: The place of the row, int64 `[batch, 1]`.
        sizes: Batch and sequence, int64 `[2]`.

    Attributes:
        nodes: The nodes.
    """

    def __init__(self, model: onnx.ModelProto, index: str, sizes: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._model = model
        self._values = Values(model)
        self._index, self._sizes = index, sizes
        self._picked: dict[str, str] = {}

    def rows(self, name: str) -> str:
        """The picked rows `[batch, width]` of a value `[tokens, width]`."""
        if name not in self._picked:
            self._picked[name] = self._attended(name) or self._gathered(name)
        return self._picked[name]

    def _gathered(self, name: str) -> str:
        shape = self._op("Concat", self._sizes, self._ints(-1), axis=0)
        return self._op("GatherND", self._op("Reshape", name, shape), self._index, batch_dims=1)

    def _attended(self, name: str) -> str | None:
        """The picked rows of the result of `attention.attend`, from queries of these rows alone.

        None if the value is another one, or if the bias depends on the query.
        """
        values = self._values
        try:
            merged, width = values.inputs_of(name, "Reshape")
            (context,) = values.inputs_of(merged, "Transpose", perm=_BY_HEAD)
            weights, value = values.inputs_of(context, "MatMul")
            (scores,) = values.inputs_of(weights, "Softmax", axis=_LAST_AXIS)
            unmasked, bias = values.inputs_of(scores, "Add")
            by_head, key = values.inputs_of(unmasked, "MatMul")
            (query,) = values.inputs_of(by_head, "Transpose", perm=_BY_HEAD)
            heads, size = values.head_shape(query)
            (_, _, queries, _) = values.shape(bias)
        except (DiffersError, ValueError):
            return None
        if queries != 1:
            return None
        row = self._op("Reshape", self._query(query), self._ints(-1, heads, 1, size))
        scored = self._op("Add", self._op("MatMul", row, key), bias)
        attended = self._op("MatMul", self._op("Softmax", scored, axis=_LAST_AXIS), value)
        return self._op("Reshape", attended, width)

    def _query(self, name: str) -> str:
        """The picked rows of queries `[batch, sequence, heads, size]`: of their linear layer, if nothing follows it."""
        values = self._values
        split = values.split_of(name)
        try:
            x, *parameters = values.inputs_of("" if split is None else split[0], "Gemm", transB=1)
        except DiffersError:
            return self._op("GatherND", name, self._index, batch_dims=1)
        return self._op("Gemm", self.rows(x), *parameters, transB=1)

    def _op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"early_rows/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _ints(self, *values: int) -> str:
        name = f"early_rows/{values}"
        if all(tensor.name != name for tensor in self._model.graph.initializer):
            self._model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name


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

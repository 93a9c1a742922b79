"""Fusion of attention into one node, for ONNX Runtime on CPUs.

`attention.attend` builds attention from plain operators, which every execution provider and every other tool runs. The
operator `Attention` of opset 23 computes the same without the four transposed copies. Measured in
ONNX Runtime 1.32 on one thread, it takes 0.7 to 0.9 of the time, 0.9 to 1 where every layer has a bias of its own;
`MultiHeadAttention` of com.microsoft takes more than plain operators.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import DRAFT, names_read, needed
from embedrt_export.graph.opsets import STANDARD, upgrade

OPSET = 23  # the first with Attention

_BY_HEAD, _KEYS = [0, 2, 1, 3], [0, 2, 3, 1]


class _DiffersError(Exception):
    """A value that `attend` would not have written."""


@dataclass(frozen=True)
class _Found:
    """One attention from plain operators.

    Attributes:
        context: What it computes, `[batch, sequence, heads, size]`; the last node reads it.
        query: `[batch, sequence, heads, size]`.
        key: `[batch, sequence, key heads, size]`.
        value: `[batch, sequence, key heads, size of values]`.
        bias: Added to the scores, `[batch or 1, heads or 1, sequence or 1, sequence]`.
        heads: Query heads.
        key_heads: Heads of keys and values; as many neighboring query heads share one.
    """

    context: str
    query: str
    key: str
    value: str
    bias: str
    heads: int
    key_heads: int


def fuse(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Build the same graph with `Attention` nodes; the weights stay in their data file.

    Only attention exactly as `attention.attend` writes it is replaced. Where `Attention` needs a bias for each query,
    one that is for all is expanded, once for all layers that share it.

    Args:
        model: A graph of `GraphBuilder`, also with operators of ONNX Runtime in it. It is left as it is.

    Returns:
        A graph of opset 23, or None if there is nothing to fuse, or an operator that cannot be converted to opset 23.
    """
    values = _Values(model)
    found = {node.output[0]: one for node in model.graph.node if (one := _find(values, node)) is not None}
    if not found:
        return None
    upgraded = onnx.GraphProto()
    try:
        upgraded.node.extend(upgrade(model, OPSET, "the graph").node)
    except UnsupportedModelError:
        return None
    writer = _Writer(values)
    for node in upgraded.node:
        if (one := found.get(node.output[0])) is not None:
            node.input[0] = writer.attention(one)
        writer.nodes.append(node)
    nodes = needed(writer.nodes, [output.name for output in model.graph.output])
    read = {name for node in nodes for name in names_read(node)}
    tensors = [tensor for tensor in [*model.graph.initializer, *writer.tensors.values()] if tensor.name in read]
    opsets = [
        helper.make_opsetid(one.domain, OPSET if one.domain in STANDARD else one.version) for one in model.opset_import
    ]
    return helper.make_model(
        helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, tensors),
        opset_imports=opsets,
        ir_version=max(model.ir_version, helper.find_min_ir_version_for(opsets, ignore_unknown=True)),
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )


def _find(values: "_Values", last: onnx.NodeProto) -> _Found | None:
    """Match the nodes of `attend` backwards from `last`, the reshape of its context; None if they do not match."""
    if last.op_type != "Reshape":
        return None
    try:
        merged, width = values.inputs_of(last.output[0], "Reshape", reads=None)
        (context,) = values.inputs_of(merged, "Transpose", perm=_BY_HEAD)
        weights, value = values.inputs_of(context, "MatMul")
        (scores,) = values.inputs_of(weights, "Softmax", axis=-1)
        unmasked, bias = values.inputs_of(scores, "Add")
        query, key = values.inputs_of(unmasked, "MatMul")
        (query,) = values.inputs_of(query, "Transpose", reads=None, perm=_BY_HEAD)
        (key,) = values.inputs_of(key, "Transpose", reads=None, perm=_KEYS)
        (value,) = values.inputs_of(value, "Transpose", reads=None, perm=_BY_HEAD)
        (heads, size), (key_heads, key_size), (value_heads, value_size) = map(values.head_shape, (query, key, value))
        fits = key_heads == value_heads == heads and key_size == size
        if not fits or len(values.shape(bias)) != 4 or values.integers(width) != [-1, heads * value_size]:
            return None
        key, value = _unrepeated(values, key), _unrepeated(values, value)
        (key_heads, _), (value_heads, _) = map(values.head_shape, (key, value))
    except _DiffersError:
        return None
    if key_heads != value_heads:
        return None
    return _Found(merged, query, key, value, bias, heads, key_heads)


def _unrepeated(values: "_Values", name: str) -> str:
    """Keys or values before each of their heads was repeated for the query heads that share it; `name` if none was."""
    try:
        repeated, shape = values.inputs_of(name, "Reshape")
        wide, times = values.inputs_of(repeated, "Expand")
        shared, axis = values.inputs_of(wide, "Unsqueeze")
        (heads, size), (all_heads, _) = values.head_shape(shared), values.head_shape(name)
        as_written = (
            values.integers(axis) == [3]
            and values.integers(times) == [1, 1, 1, all_heads // heads, 1]
            and values.integers(shape) == [0, 0, all_heads, size]
        )
    except _DiffersError:
        return name
    return shared if as_written else name


class _Values:
    """Values of a graph: the nodes that compute them, number of reads, shapes, constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        typed = onnx.ModelProto()
        typed.CopyFrom(model)
        for node in typed.graph.node:
            if node.domain == DRAFT:  # those of a padded draft keep the shape of their first input
                node.domain, node.op_type = "", "Identity"
                del node.input[1:], node.attribute[:]
        # Without a type, what is made of the result of an operator that onnx does not know has no shape either.
        typed.graph.value_info.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for node in model.graph.node
            if node.domain not in STANDARD
            for name in node.output
        )
        graph = shape_inference.infer_shapes(typed, data_prop=True).graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._reads = Counter(name for node in graph.node for name in names_read(node))
        self._reads.update(output.name for output in graph.output)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._shapes = {
            value.name: [
                dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
            ]
            for value in [*graph.input, *graph.value_info]
            if value.type.tensor_type.HasField("shape")
        }

    def inputs_of(self, name: str, op_type: str, *, reads: int | None = 1, **attributes: Any) -> list[str]:
        """Inputs of the node that computes a value.

        Args:
            name: The value.
            op_type: The operator that the node must have.
            reads: Number of nodes that must read the value; None is any number.
            **attributes: All attributes that the node must have.

        Raises:
            _DiffersError: The node is another one.
        """
        node = self._makers.get(name)
        if node is None or node.op_type != op_type or node.domain not in STANDARD or len(node.output) != 1:
            raise _DiffersError
        if {one.name: helper.get_attribute_value(one) for one in node.attribute} != attributes:
            raise _DiffersError
        if reads is not None and self._reads[name] != reads:
            raise _DiffersError
        return list(node.input)

    def shape(self, name: str) -> list[int | None]:
        """Shape of a value; None for sizes that depend on the input.

        Raises:
            _DiffersError: The number of axes is unknown.
        """
        if name not in self._shapes:
            raise _DiffersError
        return self._shapes[name]

    def head_shape(self, name: str) -> tuple[int, int]:
        """Heads and size of a head of a value `[batch, sequence, heads, size]`."""
        match self.shape(name):
            case [_, _, int(heads), int(size)]:
                return heads, size
        raise _DiffersError

    def integers(self, name: str) -> list[int]:
        """A constant vector."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.INT64 or len(tensor.dims) != 1:
            raise _DiffersError
        return [int(value) for value in numpy_helper.to_array(tensor)]

    def split_of(self, name: str) -> tuple[str, str] | None:
        """Inputs of `attention.split_heads` for a value: `[tokens, width]`, and batch and sequence, int64 `[2]`."""
        try:
            flat, shape = self.inputs_of(name, "Reshape", reads=None)
            batch_and_sequence, head_shape = self.inputs_of(shape, "Concat", reads=None, axis=0)
            if self.shape(batch_and_sequence) == [2] and tuple(self.integers(head_shape)) == self.head_shape(name):
                return flat, batch_and_sequence
        except _DiffersError:
            pass
        return None


class _Writer:
    """Collect the nodes of the new graph, in an order in which they can be computed."""

    def __init__(self, values: _Values) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self._values = values
        self._made: set[str] = set()

    def attention(self, found: _Found) -> str:
        """Add an `Attention` node; returns its result `[batch, sequence, heads x size of values]`."""
        inputs = [self._rows(name) for name in (found.query, found.key, found.value)]
        # Queries are scaled already.
        return self._add(
            "Attention",
            f"{found.context}/attention",
            *inputs,
            self._square(found.bias),
            q_num_heads=found.heads,
            kv_num_heads=found.key_heads,
            scale=1.0,
        )

    def _rows(self, name: str) -> str:
        """Reshape `[batch, sequence, heads, size]` to `[batch, sequence, heads x size]`."""
        heads, size = self._values.head_shape(name)
        if (split := self._values.split_of(name)) is None:
            return self._add("Reshape", f"{name}/rows", name, self._ints(0, 0, heads * size))
        flat, shape = split
        shape = self._add("Concat", f"{shape}/{heads * size}", shape, self._ints(heads * size), axis=0)
        return self._add("Reshape", f"{name}/rows", flat, shape)

    def _square(self, bias: str) -> str:
        """Expand a bias that has one row for all queries, as `Attention` needs a row for each."""
        if self._values.shape(bias)[2] != 1:
            return bias
        length = self._add("Shape", f"{bias}/length", bias, start=3)
        shape = self._add("Concat", f"{bias}/shape", self._ints(1, 1), length, length, axis=0)
        return self._add("Expand", f"{bias}/square", bias, shape)

    def _add(self, op_type: str, output: str, *inputs: str, **attributes: Any) -> str:
        if output not in self._made:
            self._made.add(output)
            self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def _ints(self, *values: int) -> str:
        name = f"fusion/{values}"
        self.tensors[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

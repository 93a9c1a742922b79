"""Fusion of attention into one node, for ONNX Runtime on CPUs.

`attention.attend` builds attention from plain operators, which every execution provider and every other tool runs. The
operator `Attention` of opset 23 computes the same without the four transposed copies. Measured in
ONNX Runtime 1.32 on one thread, it takes 0.7 to 0.9 of the time, 0.9 to 1 where every layer has a bias of its own;
`MultiHeadAttention` of com.microsoft takes more than plain operators.

Two things are for CPUs alone: `RotaryEmbedding` for the seven nodes of a rotation, in 0.1 to 0.4 of their time and
without the copies of halves; and a second branch for long texts, see `long_attention`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import names_read, needed
from embedrt_export.graph.long_attention import (
    Nodes,
    Rows,
    add_attention,
    add_blocks,
    add_short_bias,
    expand_rows,
    plan_blocks,
)
from embedrt_export.graph.opsets import MICROSOFT, STANDARD, all_nodes, upgrade
from embedrt_export.graph.values import DiffersError, Values

OPSET = 23  # the first with Attention

_BY_HEAD, _KEYS = [0, 2, 1, 3], [0, 2, 3, 1]


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


@dataclass(frozen=True)
class OnCpu:
    """Settings of a graph for CPUs.

    Attributes:
        longest: Largest number of tokens of a text, such as the `position_limit` of a route; None without limit.
    """

    longest: int | None


def fuse(model: onnx.ModelProto, on_cpu: OnCpu | None = None) -> onnx.ModelProto | None:
    """Build the same graph with `Attention` nodes; the weights stay in their data file.

    Only attention exactly as `attention.attend` writes it is replaced. Where `Attention` needs a bias for each query,
    one that is for all is expanded, once for all layers that share it.

    Args:
        model: A graph of `GraphBuilder`, also with operators of ONNX Runtime in it. It is left as it is.
        on_cpu: Settings of a graph for CPUs; None is for any device.

    Returns:
        A graph of opset 23, or None if there is nothing to fuse, or an operator that cannot be converted to opset 23.
    """
    values = Values(model)
    found = {node.output[0]: one for node in model.graph.node if (one := _find(values, node)) is not None}
    if not found:
        return None
    upgraded = onnx.GraphProto()
    try:
        upgraded.node.extend(upgrade(model, OPSET, "the graph").node)
    except UnsupportedModelError:
        return None
    writer = _Writer(values, on_cpu)
    for node in upgraded.node:
        if (one := found.get(node.output[0])) is not None:
            node.input[0] = writer.attention(one)
        writer.nodes.nodes.append(node)
    nodes = needed(writer.nodes.nodes, [output.name for output in model.graph.output])
    read = {name for node in nodes for name in names_read(node)}
    tensors = [tensor for tensor in [*model.graph.initializer, *writer.tensors.values()] if tensor.name in read]
    opsets = [
        helper.make_opsetid(one.domain, OPSET if one.domain in STANDARD else one.version) for one in model.opset_import
    ]
    domains = {one.domain for one in all_nodes(nodes)}
    opsets += [helper.make_opsetid(MICROSOFT, 1)] if MICROSOFT in domains - {one.domain for one in opsets} else []
    return helper.make_model(
        helper.make_graph(
            nodes, model.graph.name, model.graph.input, model.graph.output, tensors, value_info=writer.shapes
        ),
        opset_imports=opsets,
        ir_version=max(model.ir_version, helper.find_min_ir_version_for(opsets, ignore_unknown=True)),
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )


def _find(values: Values, last: onnx.NodeProto) -> _Found | None:
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
    except DiffersError:
        return None
    if key_heads != value_heads:
        return None
    return _Found(merged, query, key, value, bias, heads, key_heads)


@dataclass(frozen=True)
class _Rotation:
    """One rotation of `rotary.rotate`.

    Attributes:
        x: What is rotated, `[batch, sequence, heads, size]`.
        cos: `[sequence, 1, rotated size / 2]`.
        sin: Of the same shape.
        size: Rotated width of a head.
    """

    x: str
    cos: str
    sin: str
    size: int


def _find_rotation(values: Values, name: str) -> _Rotation | None:
    """Match the nodes of `rotary.rotate` backwards from `name`; None if they do not match."""
    try:
        first, second, *rest = values.inputs_of(name, "Concat", reads=None, axis=-1)
        difference, total = values.inputs_of(first, "Sub", reads=None), values.inputs_of(second, "Add", reads=None)
        (a, cos), (b, sin) = (values.inputs_of(part, "Mul", reads=None) for part in difference)
        crossed = [values.inputs_of(part, "Mul", reads=None) for part in total]
        split = values.maker(a)
        axis = [helper.get_attribute_value(one) for one in split.attribute if one.name == "axis"]
        half = values.shape(cos)[-1]
        as_written = (
            crossed == [[b, cos], [a, sin]]
            and split.op_type == "Split"
            and axis == [-1]
            and list(split.output) == [a, b, *rest]
            and values.integers(split.input[1])[:2] == [half, half]
            and values.shape(cos) == values.shape(sin) == [None, 1, half]
        )
    except DiffersError:
        return None
    return _Rotation(split.input[0], cos, sin, 2 * half) if as_written and half is not None else None


def _unrepeated(values: Values, name: str) -> str:
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
    except DiffersError:
        return name
    return shared if as_written else name


class _Writer:
    """Collect the nodes of the new graph, in an order in which they can be computed."""

    def __init__(self, values: Values, on_cpu: OnCpu | None) -> None:
        self.tensors: dict[str, TensorProto] = {}
        self.nodes = Nodes("fusion", self.tensors)
        self.shapes: list[onnx.ValueInfoProto] = []
        self._values = values
        self._on_cpu = on_cpu
        self._made: dict[tuple[str, str], str] = {}

    def attention(self, found: _Found) -> str:
        """Add attention from one node, or a choice by length; returns its result `[batch, sequence, width]`."""
        values = self._values
        (_, size), (_, value_size) = values.head_shape(found.query), values.head_shape(found.value)
        query, key, value = (self._rows(name) for name in (found.query, found.key, found.value))
        name = f"{found.context}/attention"
        rows = Rows(name, query, key, value, found.bias, found.heads, found.key_heads, size, value_size)
        blocks = None if self._on_cpu is None else plan_blocks(values, found.bias, self._on_cpu.longest)
        if blocks is None:
            bias = found.bias
            if values.shape(bias)[2] == 1:
                bias = self._once("square", bias, lambda: expand_rows(self.nodes, bias))
            return add_attention(self.nodes, rows, bias)
        is_long = self._once("is long", found.bias, lambda: self._is_longer(rows.query, blocks.short))
        bias = self._once("square", found.bias, lambda: add_short_bias(self.nodes, values, found.bias, is_long))
        short, long = Nodes(f"{rows.name}/short", self.tensors), Nodes(f"{rows.name}/long", self.tensors)
        shape: list[int | None] = [None, None, rows.heads * value_size]
        short_branch = short.branch(add_attention(short, rows, bias), shape)
        long_branch = long.branch(add_blocks(long, values, rows, blocks), shape)
        return self.nodes.op("If", is_long, then_branch=long_branch, else_branch=short_branch)

    def _is_longer(self, query: str, short: int) -> str:
        nodes = self.nodes
        return nodes.op("Greater", nodes.op("Shape", query, start=1, end=2), nodes.ints(short))

    def _rows(self, name: str) -> str:
        """Reshape `[batch, sequence, heads, size]` to `[batch, sequence, heads x size]`."""
        nodes, (heads, size) = self.nodes, self._values.head_shape(name)
        width = nodes.ints(heads * size)

        def reshape() -> str:
            if self._on_cpu is not None and (rotation := _find_rotation(self._values, name)) is not None:
                return self._rotated(rotation, heads, size)
            if (split := self._values.split_of(name)) is None:
                return nodes.op("Reshape", name, nodes.ints(0, 0, heads * size))
            flat, shape = split
            wide = self._once(f"shape of {heads * size}", shape, lambda: nodes.op("Concat", shape, width, axis=0))
            rows = nodes.op("Reshape", flat, wide)
            # onnx checks inner graphs with what it knows of the values outside, and it does not compute shapes.
            self.shapes.append(helper.make_tensor_value_info(rows, TensorProto.FLOAT, [None, None, heads * size]))
            return rows

        return self._once("rows", name, reshape)

    def _rotated(self, rotation: _Rotation, heads: int, size: int) -> str:
        """Add a rotation; returns `[batch, sequence, heads x size]`."""
        nodes, x = self.nodes, self._rows(rotation.x)
        cos, sin = (
            self._once("angles", name, partial(nodes.op, "Squeeze", name, nodes.ints(1)))
            for name in (rotation.cos, rotation.sin)
        )
        positions = self._once("positions", rotation.cos, lambda: self._positions(cos, x))
        partly = {} if rotation.size == size else {"rotary_embedding_dim": rotation.size}
        return nodes.op("RotaryEmbedding", x, cos, sin, positions, num_heads=heads, **partly)

    def _positions(self, cos: str, x: str) -> str:
        """Add the positions of all tokens: int64 `[batch, sequence]`."""
        nodes, first, step = self.nodes, self.nodes.constant(np.int64(0)), self.nodes.constant(np.int64(1))
        length = nodes.op("Squeeze", nodes.op("Shape", cos, start=0, end=1))
        return nodes.op("Expand", nodes.op("Range", first, length, step), nodes.op("Shape", x, start=0, end=2))

    def _once(self, kind: str, name: str, add: Callable[[], str]) -> str:
        """Return what `add` adds for a value; layers share it."""
        if (kind, name) not in self._made:
            self._made[kind, name] = add()
        return self._made[kind, name]

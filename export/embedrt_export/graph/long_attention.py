"""Attention of long texts in blocks, for ONNX Runtime on CPUs: exact, and in memory that does not grow as n x n.

`Attention` over n tokens stores the scores of all pairs, heads x n x n numbers. Longer texts are computed in one of two
ways:

- Attention to all tokens: `MultiHeadAttention` of com.microsoft, which keeps the scores of some queries and keys in the
  L2 cache, and adds up softmax as it goes. That it does only without a mask. So the mask, one number for each key, goes
  in as one more coordinate of the heads: 1 in the queries, and the number in the keys.
- A window, causal attention, or a bias by offset: a loop over blocks of queries, each with the keys in its window. The
  bias of the block is computed in the loop, from the same nodes, over the block's rows and columns.

Either is a branch of an `If` on the length, which costs 2 microseconds; the other branch is `Attention`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedrt_export.graph.opsets import MICROSOFT
from embedrt_export.graph.values import DiffersError, Values

# Up to this many tokens, `Attention` is as fast: in general, and where all keys of a block count.
_SHORT, _SHORT_WIDE = 512, 768
# Up to this many tokens, a bias for each head is computed once for all layers, as it takes as long as attention.
_SHORT_BY_HEAD = 2048
# Queries of one block: few for narrow windows, as the keys of a block are those of all its queries.
_BLOCK, _NARROW_BLOCK, _NARROW = 128, 64, 512

# What a mask adds to the scores of masked pairs.
_LOWEST = float(np.finfo(np.float32).min)
_ELEMENTWISE = {"Add", "Sub", "And", "Where", "LessOrEqual", "GreaterOrEqual", "Cast", "Clip"}


@dataclass(frozen=True)
class Rows:
    """One attention.

    Attributes:
        name: Prefix of the names of new values.
        query: `[batch, sequence, heads x size]`.
        key: `[batch, sequence, key heads x size]`.
        value: `[batch, sequence, key heads x size of values]`.
        bias: Added to the scores, `[batch or 1, heads or 1, sequence or 1, sequence]`.
        heads: Query heads.
        key_heads: Heads of keys and values; as many neighboring query heads share one.
        size: Width of a head of queries and keys.
        value_size: Width of a head of values.
    """

    name: str
    query: str
    key: str
    value: str
    bias: str
    heads: int
    key_heads: int
    size: int
    value_size: int


@dataclass(frozen=True)
class Window:
    """Number of tokens before and after a token that it attends to; None is all."""

    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Blocks:
    """The computation of a long attention.

    Attributes:
        window: The tokens that a token attends to; None is attention to all tokens without a bias by offset.
        block: Queries of one block; 0 without a window.
        short: Up to this many tokens, `Attention` is taken.
    """

    window: Window | None
    block: int
    short: int


class Nodes:
    """Nodes of a graph or of an inner graph, in the order in which they are computed.

    Args:
        prefix: Prefix of the names of their values.
        tensors: Constants of the outermost graph, to which new ones are added.
    """

    def __init__(self, prefix: str, tensors: dict[str, TensorProto]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix
        self._tensors = tensors

    def inner(self, name: str) -> "Nodes":
        """Start an inner graph."""
        return Nodes(f"{self._prefix}/{name}", self._tensors)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        output = f"{self._prefix}/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def copy(self, node: onnx.NodeProto, inputs: list[str]) -> str:
        """Add a copy of a node with other inputs; returns its output's name."""
        output = f"{self._prefix}/{node.output[0]}"
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = output
        copied.input[:], copied.output[:] = inputs, [output]
        self.nodes.append(copied)
        return output

    def branch(self, output: str, shape: list[int | None]) -> onnx.GraphProto:
        """Finish the inner graph of an `If`, with a float32 output."""
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        return helper.make_graph(self.nodes, self._prefix, [], [result])

    def ints(self, *values: int) -> str:
        """Constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def constant(self, values: Any) -> str:
        """Small constant."""
        name = f"fusion/{values.dtype}{list(values.shape)}{values.tolist()}"
        self._tensors[name] = numpy_helper.from_array(values, name)
        return name


def plan_blocks(values: Values, bias: str, longest: int | None) -> Blocks | None:
    """Choose the computation of long texts by the nodes of the bias.

    Args:
        values: The values of the graph.
        bias: Added to the scores.
        longest: Largest number of tokens of a text; None without limit.

    Returns:
        The computation, or None if all texts are short or the bias cannot be computed block by block.
    """
    blocks = _blocks(values, bias)
    return None if blocks is None or (longest is not None and longest <= blocks.short) else blocks


def _blocks(values: Values, bias: str) -> Blocks | None:
    try:
        batch_by_head = values.shape(bias)
        if batch_by_head[2] == 1:
            return Blocks(None, 0, _SHORT) if batch_by_head[1] == 1 else None
        _visit(values, bias)
    except DiffersError:
        return None
    window = _window(values, bias)
    if batch_by_head[1] != 1:
        return Blocks(window, _BLOCK, _SHORT_BY_HEAD)
    if window.before is not None and window.after is not None and window.before + window.after <= _NARROW:
        return Blocks(window, _NARROW_BLOCK, _SHORT)
    return Blocks(window, _BLOCK, _SHORT_WIDE)


def add_short_bias(nodes: Nodes, values: Values, bias: str, is_long: str) -> str:
    """Add the bias of all pairs of tokens of a short text, which `Attention` needs; of a long one, nothing."""
    short, long = nodes.inner("short"), nodes.inner("long")
    if values.shape(bias)[2] == 1:
        square = expand_rows(short, bias)
    else:
        square = _copy_pairs(short, values, bias, lambda name, *_: name)
    nothing = long.op("Identity", long.constant(np.zeros((1, 1, 1, 1), np.float32)))
    shape: list[int | None] = [None, None, None, None]
    return nodes.op("If", is_long, then_branch=long.branch(nothing, shape), else_branch=short.branch(square, shape))


def expand_rows(nodes: Nodes, bias: str) -> str:
    """Add a bias with a row for each query, from one row for all of them."""
    length = nodes.op("Shape", bias, start=3)
    return nodes.op("Expand", bias, nodes.op("Concat", nodes.ints(1, 1), length, length, axis=0))


def add_attention(nodes: Nodes, rows: Rows, bias: str) -> str:
    """Add attention as one node; the queries are scaled already.

    Returns:
        `[batch, sequence, heads x size of values]`.
    """
    heads = {"q_num_heads": rows.heads, "kv_num_heads": rows.key_heads}
    return nodes.op("Attention", rows.query, rows.key, rows.value, bias, scale=1.0, **heads)


def add_blocks(nodes: Nodes, values: Values, rows: Rows, blocks: Blocks) -> str:
    """Add the attention of a long text; returns the same as `add_attention`."""
    if blocks.window is None:
        return _add_tiled(nodes, rows)
    return _add_loop(nodes, values, rows, blocks.window, blocks.block)


def _add_tiled(nodes: Nodes, rows: Rows) -> str:
    """Add attention to all tokens as `MultiHeadAttention`."""
    key, value = rows.key, rows.value
    if rows.key_heads != rows.heads:
        key, value = (
            _repeat_heads(nodes, part, rows, size) for part, size in ((key, rows.size), (value, rows.value_size))
        )

    def attend(inside: Nodes, query: str, key: str) -> onnx.GraphProto:
        attributes = {"num_heads": rows.heads, "scale": 1.0, "domain": MICROSOFT}
        result = inside.op("MultiHeadAttention", query, key, value, **attributes)
        return inside.branch(result, [None, None, rows.heads * rows.value_size])

    plain, masked = nodes.inner("plain"), nodes.inner("masked")
    sizes = masked.op("Concat", masked.op("Shape", rows.query, start=0, end=2), masked.ints(rows.heads, 1), axis=0)
    by_key = masked.op("Reshape", rows.bias, masked.ints(0, -1, 1, 1))
    wider = [
        _wider_heads(masked, part, rows, masked.op("Expand", coordinate, sizes))
        for part, coordinate in ((rows.query, masked.constant(np.ones((1, 1, 1, 1), np.float32))), (key, by_key))
    ]
    is_masked = nodes.op("Less", nodes.op("ReduceMin", rows.bias, keepdims=0), nodes.constant(np.float32(0)))
    branches = {"then_branch": attend(masked, *wider), "else_branch": attend(plain, rows.query, key)}
    return nodes.op("If", is_masked, **branches)


def _wider_heads(nodes: Nodes, x: str, rows: Rows, coordinate: str) -> str:
    """Add one coordinate `[batch, sequence, heads, 1]` to every head of queries or keys."""
    by_head = nodes.op("Reshape", x, nodes.ints(0, 0, rows.heads, rows.size))
    wider = nodes.op("Concat", by_head, coordinate, axis=3)
    return nodes.op("Reshape", wider, nodes.ints(0, 0, rows.heads * (rows.size + 1)))


def _repeat_heads(nodes: Nodes, x: str, rows: Rows, size: int) -> str:
    """Repeat each head of keys or values for the query heads that share it."""
    shared = nodes.op("Reshape", x, nodes.ints(0, 0, rows.key_heads, 1, size))
    repeated = nodes.op("Expand", shared, nodes.ints(1, 1, 1, rows.heads // rows.key_heads, 1))
    return nodes.op("Reshape", repeated, nodes.ints(0, 0, rows.heads * size))


def _add_loop(nodes: Nodes, values: Values, rows: Rows, window: Window, block: int) -> str:
    """Add a loop over blocks of queries."""
    length = nodes.op("Shape", rows.query, start=1, end=2)
    count = nodes.op("Div", nodes.op("Add", length, nodes.ints(block - 1)), nodes.ints(block))
    body = nodes.inner("block")
    number, going, done = (f"{rows.name}/{name}" for name in ("number", "going", "done"))
    start = body.op("Mul", number, body.ints(block))
    end = body.op("Min", body.op("Add", start, body.ints(block)), length)
    first, last = body.ints(0), length
    if window.before is not None:
        first = body.op("Max", body.op("Sub", start, body.ints(window.before)), first)
    if window.after is not None:
        last = body.op("Min", body.op("Add", end, body.ints(window.after)), last)

    def part(name: str, rows_axis: int | None, columns_axis: int | None) -> str:
        """Add the rows and columns of the block."""
        for axis, bounds in ((rows_axis, (start, end)), (columns_axis, (first, last))):
            if axis is not None:
                name = body.op("Slice", name, *bounds, body.ints(axis))
        return name

    inside = Rows(
        name=rows.name,
        query=part(rows.query, 1, None),
        key=part(rows.key, None, 1),
        value=part(rows.value, None, 1),
        bias=_copy_pairs(body, values, rows.bias, part),
        heads=rows.heads,
        key_heads=rows.key_heads,
        size=rows.size,
        value_size=rows.value_size,
    )
    attended = body.op("SequenceInsert", done, add_attention(body, inside, inside.bias))
    still = body.op("Identity", going)
    graph = helper.make_graph(
        body.nodes,
        f"{rows.name}/block",
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info(done, TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info(still, TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info(attended, TensorProto.FLOAT, None),
        ],
    )
    nothing = nodes.op("SequenceEmpty", dtype=TensorProto.FLOAT)
    parts = nodes.op("Loop", nodes.op("Squeeze", count), "", nothing, body=graph)
    return nodes.op("ConcatFromSequence", parts, axis=1)


Leaf = Callable[[str, int | None, int | None], str]
"""Function that returns some rows and columns of a value with rows or columns, by the numbers of their axes."""


def _visit(values: Values, bias: str) -> None:
    """Check that a bias can be computed for some rows and columns alone.

    Raises:
        DiffersError: It has an operator for which that is unknown.
    """
    _copy_pairs(Nodes("", {}), values, bias, lambda name, *_: name)


def _copy_pairs(nodes: Nodes, values: Values, bias: str, leaf: Leaf) -> str:
    """Copy the nodes that compute a value for each pair of tokens; `leaf` returns what has rows or columns alone.

    Args:
        nodes: The nodes to add to.
        values: The values of the original graph.
        bias: `[..., sequence, sequence]`.
        leaf: Returns the rows and columns that are needed.

    Raises:
        DiffersError: There is an operator for which rows and columns are not known.
    """
    copied: dict[tuple[str, int | None, int | None], str] = {}

    def copy(name: str, rows: int | None, columns: int | None) -> str:
        shape = values.shape(name)
        rows, columns = (None if axis is None or shape[axis] == 1 else axis for axis in (rows, columns))
        if rows is None and columns is None:
            return name
        key = name, rows, columns
        if key not in copied:
            both = rows is not None and columns is not None
            copied[key] = nodes.copy(values.maker(name), inputs(name)) if both else leaf(name, rows, columns)
        return copied[key]

    def inputs(name: str) -> list[str]:
        node, rank = values.maker(name), len(values.shape(name))
        rows, columns = rank - 2, rank - 1
        if node.op_type in _ELEMENTWISE:
            return [copy(one, *_of_input(values, one, rank, rows, columns)) for one in node.input]
        if node.op_type == "Unsqueeze":
            x, axes = node.input
            added = values.integers(axes)
            before = sum(axis % rank < rows for axis in added)
            if len(added) != before:
                raise DiffersError
            return [copy(x, rows - before, columns - before), axes]
        if node.op_type == "Gather":
            table, index = node.input
            first = next((helper.get_attribute_value(one) for one in node.attribute if one.name == "axis"), 0)
            if rank != len(values.shape(table)) + 1 or first != len(values.shape(table)) - 1:
                raise DiffersError
            return [table, copy(index, 0, 1)]
        raise DiffersError

    rank = len(values.shape(bias))
    return copy(bias, rank - 2, rank - 1)


def _of_input(values: Values, name: str, rank: int, rows: int, columns: int) -> tuple[int | None, int | None]:
    """Axes of an input of an operator that broadcasts."""
    missing = rank - len(values.shape(name))
    return tuple(None if axis < missing else axis - missing for axis in (rows, columns))  # type: ignore[return-value]


def _window(values: Values, bias: str) -> Window:
    """The attention window that a mask of `attention.attention_bias` has, wide where it has none."""
    before, after = None, None
    try:
        if values.maker(bias).op_type == "Add":
            bias = values.inputs_of(bias, "Add", reads=None)[1]
        visible, kept, masked = values.inputs_of(bias, "Where", reads=None)
        if (values.number(kept), values.number(masked)) != (0.0, _LOWEST):
            return Window()
        while values.maker(visible).op_type == "And":
            visible, inside = values.inputs_of(visible, "And", reads=None)
            edge = values.maker(inside)
            _require_offset(values, edge.input[0])
            width = int(values.number(edge.input[1]))
            if edge.op_type == "LessOrEqual":
                after = width
            elif edge.op_type == "GreaterOrEqual":
                before = -width
            else:
                break
    except DiffersError:
        pass
    return Window(before, after)


def _require_offset(values: Values, offset: str) -> None:
    """Require the difference of the positions of keys and queries.

    Raises:
        DiffersError: It is another value.
    """
    keys, queries = values.inputs_of(offset, "Sub", reads=None)
    (key_positions, key_axis), (positions, axis) = (
        values.inputs_of(name, "Unsqueeze", reads=None) for name in (keys, queries)
    )
    first, _, step = values.inputs_of(positions, "Range", reads=None)
    if key_positions != positions or (values.number(first), values.number(step)) != (0, 1):
        raise DiffersError
    if (values.integers(key_axis), values.integers(axis)) != ([0], [1]):
        raise DiffersError

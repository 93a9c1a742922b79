"""Values of a graph: the nodes that compute them, the number of reads, shapes and constants."""

from collections import Counter
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from embedrt_export.graph.builder import DRAFT, names_read
from embedrt_export.graph.opsets import STANDARD


class DiffersError(Exception):
    """A value that is computed in another way than was looked for."""


class Values:
    """Values of one graph, which is left as it is.

    Args:
        model: The graph, also with operators that onnx does not know.
    """

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
        self._makers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
        self._reads = Counter(name for node in graph.node for name in names_read(node))
        self._reads.update(output.name for output in graph.output)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._shapes: dict[str, list[int | None]] = {name: list(one.dims) for name, one in self._constants.items()}
        self._shapes |= {
            value.name: [
                dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
            ]
            for value in [*graph.input, *graph.value_info]
            if value.type.tensor_type.HasField("shape")
        }

    def maker(self, name: str) -> onnx.NodeProto:
        """The node that computes a value, with a standard operator.

        Raises:
            DiffersError: The value is an input or a constant, or the node is another one.
        """
        node = self._makers.get(name)
        if node is None or node.domain not in STANDARD:
            raise DiffersError
        return node

    def inputs_of(self, name: str, op_type: str, *, reads: int | None = 1, **attributes: Any) -> list[str]:
        """Inputs of the node that computes a value.

        Args:
            name: The value.
            op_type: The operator that the node must have.
            reads: Number of nodes that must read the value; None is any number.
            **attributes: All attributes that the node must have.

        Raises:
            DiffersError: The node is another one.
        """
        node = self.maker(name)
        if node.op_type != op_type or len(node.output) != 1:
            raise DiffersError
        if {one.name: helper.get_attribute_value(one) for one in node.attribute} != attributes:
            raise DiffersError
        if reads is not None and self._reads[name] != reads:
            raise DiffersError
        return list(node.input)

    def shape(self, name: str) -> list[int | None]:
        """Shape of a value; None for sizes that depend on the input.

        Raises:
            DiffersError: The number of axes is unknown.
        """
        if name not in self._shapes:
            raise DiffersError
        return self._shapes[name]

    def head_shape(self, name: str) -> tuple[int, int]:
        """Heads and size of a head of a value `[batch, sequence, heads, size]`."""
        match self.shape(name):
            case [_, _, int(heads), int(size)]:
                return heads, size
        raise DiffersError

    def integers(self, name: str) -> list[int]:
        """A constant vector."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.INT64 or len(tensor.dims) != 1:
            raise DiffersError
        return [int(value) for value in numpy_helper.to_array(tensor)]

    def number(self, name: str) -> float:
        """A constant scalar."""
        tensor = self._constants.get(name)
        if tensor is None or len(tensor.dims) != 0:
            raise DiffersError
        return float(numpy_helper.to_array(tensor))

    def split_of(self, name: str) -> tuple[str, str] | None:
        """Inputs of `attention.split_heads` for a value: `[tokens, width]`, and batch and sequence, int64 `[2]`."""
        try:
            flat, shape = self.inputs_of(name, "Reshape", reads=None)
            batch_and_sequence, head_shape = self.inputs_of(shape, "Concat", reads=None, axis=0)
            if self.shape(batch_and_sequence) == [2] and tuple(self.integers(head_shape)) == self.head_shape(name):
                return flat, batch_and_sequence
        except DiffersError:
            pass
        return None

"""A graph as it was written: its nodes, its weights, and for a draft the dtype in which each value is computed."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt_export.graph.builder import DRAFT, names_read

Region = Literal["integer", "float32", "hidden"]
"""Dtype of a value: integers and booleans, float32, or the narrow dtype of the hidden states."""

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
TO_INTEGER = frozenset(
    ("And", "ArgMax", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Shape")
)
"""Operators whose result is no float, whatever they read."""


class Values:
    """The values of a graph.

    A draft leaves open which dtype they have. From an operator `ToFloat`, or from a cast of integers, on, a value is
    float32. From an operator `ToHidden`, or from a weight, on, it has the dtype of the hidden states.

    Args:
        model: The draft, or a graph with fused nodes made from it.
        folder: The folder of its data file.

    Attributes:
        nodes: The nodes, in order.
        constants: The names of its weights and constants.
        reads: The number of times that each value is read.
        model: The graph.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = set(self._tensors)
        self.reads = Counter(name for node in self.nodes for name in names_read(node))
        self.reads.update(output.name for output in model.graph.output)

    @cached_property
    def regions(self) -> dict[str, Region]:
        """The dtype of every value of a draft but the weights.

        Raises:
            ValueError: A node mixes float32 and the hidden states' dtype.
        """
        regions: dict[str, Region] = {
            value.name: "float32" if value.type.tensor_type.elem_type in _FLOATS else "integer"
            for value in self.model.graph.input
        }
        for node in self.nodes:
            result = self._result(node, regions)
            regions.update((name, result) for name in node.output if name)
        return regions

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for inputs and weights."""
        return self._makers.get(name)

    def made_by(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that computes a value, if it has one of these operators."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type in op_types else None

    def array(self, name: str) -> NDArray[Any]:
        """A weight or constant."""
        return numpy_helper.to_array(self._tensors[name], str(self._folder))

    def is_float(self, name: str) -> bool:
        """True if a weight or constant holds floats."""
        return self.element(name) in _FLOATS

    def element(self, name: str) -> int:
        """The element type of a weight or constant, as ONNX numbers it."""
        return int(self._tensors[name].data_type)

    def region_read(self, node: onnx.NodeProto) -> Region:
        """The dtype in which a node of a draft reads its float inputs."""
        return self._region_read(node, self.regions)

    def _region_read(self, node: onnx.NodeProto, regions: dict[str, Region]) -> Region:
        read = {regions[name] for name in names_read(node) if name in regions}
        if {"float32", "hidden"} <= read:
            raise ValueError(f"graph: {node.name} mixes float32 and the dtype of the hidden states")
        if "float32" in read:
            return "float32"
        weights = any(name in self.constants and self.is_float(name) for name in node.input)
        return "hidden" if "hidden" in read or weights else "integer"

    def _result(self, node: onnx.NodeProto, regions: dict[str, Region]) -> Region:
        if node.domain == DRAFT and node.op_type in {"ToFloat", "ToHidden"}:
            return "float32" if node.op_type == "ToFloat" else "hidden"
        if node.op_type in TO_INTEGER:
            return "integer"
        read = self._region_read(node, regions)
        if node.op_type == "Cast":
            if attributes(node)["to"] != TensorProto.FLOAT:
                return "integer"
            return "float32" if read == "integer" else read
        return read


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """A weight in float32."""
    return np.asarray(array, np.float32)

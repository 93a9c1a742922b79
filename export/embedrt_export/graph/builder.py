"""Builder of ONNX graphs. Weights are written to the data file at once, so memory holds one tensor at a time."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt._version import __version__
from embedrt_export.graph.data_file import DataFile, identity_of

OPSET = 20  # has Gelu and LayerNormalization, and all supported execution providers run it
_IR_VERSION = 9  # of opset 20
BOOL, FLOAT = int(TensorProto.BOOL), int(TensorProto.FLOAT)
INT32, INT64 = int(TensorProto.INT32), int(TensorProto.INT64)
DRAFT = "embedrt"
"""Domain of the operators of a draft, each of which `embedrt_export.dtypes.float16` replaces."""

Layout = Literal["padded", "packed"]
# Element type and axes of the inputs of a packed graph; docs/reference/bundle.md has their content.
_PACKED_INPUTS: dict[str, tuple[int, list[str | int]]] = {
    "input_ids": (INT32, ["tokens"]),
    "token_type_ids": (INT32, ["tokens"]),
    "position_ids": (INT32, ["tokens"]),
    "starts": (INT32, ["starts"]),
    "token_index": (INT32, ["batch", "length"]),
    "offsets": (INT32, ["length"]),
    "mean_weights": (FLOAT, ["batch", 1, "length"]),
    "mean_sqrt_len_weights": (FLOAT, ["batch", 1, "length"]),
    "weightedmean_weights": (FLOAT, ["batch", 1, "length"]),
    "first_rows": (INT32, ["batch"]),
    "last_rows": (INT32, ["batch"]),
    "has_tokens": (FLOAT, ["batch", 1]),
    "pooled_index": (INT32, ["batch", "length"]),
    "past_lengths": (INT32, ["batch"]),
    "block_table": (INT32, ["batch", "blocks of a text"]),
    "longest": (INT32, [2]),
}


class GraphBuilder:
    """Builder of one ONNX graph. Values are named by strings, as in ONNX.

    Nodes are pure functions of their inputs, so equal nodes are added once.

    A draft is a graph on its way to a dtype that is narrower than float32. It has float32 weights, and operators of the
    domain `DRAFT` where such a dtype needs other ones than the portable graph.

    Args:
        data: File for the weights.
        draft: The layout of a draft; None builds the portable graph.

    Attributes:
        draft: See the argument.
        padding_id: The token from whose id a packed graph counts positions, if it does; see `Packing` in the manifest.
    """

    def __init__(self, data: DataFile, draft: Layout | None = None) -> None:
        self.draft = draft
        self.padding_id: int | None = None
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._values: dict[bytes, str] = {}
        self._tensors: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._made: dict[Hashable, str] = {}
        self._opsets = {"": OPSET}

    @property
    def is_packed(self) -> bool:
        """True if the hidden states of all texts are one stream of tokens, without padding."""
        return self.draft == "packed"

    @property
    def is_portable(self) -> bool:
        """True if all operators are standard ones."""
        return set(self._opsets) == {""}

    def input(self, name: str) -> str:
        """Declare an int64 input `[batch, sequence]`."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        return name

    def packed_input(self, name: str) -> str:
        """Declare an input of a packed graph, once."""

        def declare() -> str:
            self._inputs.append(packed_value(name))
            return name

        return self.once(("input", name), declare)

    def output(self, name: str, value: str, shape: list[str | int]) -> None:
        """Declare a float32 output with the value of `value`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a standard operator with one output; returns the output's name."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def draft_op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator of a draft; returns its output's name."""
        return self.op(op_type, *inputs, domain=DRAFT, **attributes)

    def to_float(self, x: str) -> str:
        """Compute what follows in float32, whatever the dtype of the hidden states."""
        return self.draft_op("ToFloat", x) if self.draft else x

    def to_hidden(self, x: str) -> str:
        """Compute what follows in the dtype of the hidden states."""
        return self.draft_op("ToHidden", x) if self.draft else x

    def ops(self, op_type: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a standard operator with several outputs; returns their names."""
        node = helper.make_node(op_type, list(inputs), [], **attributes)
        identity = node.SerializeToString(deterministic=True)
        name = self._values.setdefault(identity, f"{op_type}_{len(self._nodes)}")
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        if name == f"{op_type}_{len(self._nodes)}":
            node.name = name
            node.output.extend(names)
            self._nodes.append(node)
        return names

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Add a tensor; returns `name`, or the name of an equal tensor that was added before."""
        values = np.asarray(values, order="C")  # np.ascontiguousarray would make vectors of scalars
        identity = identity_of(values)
        if known := self._values.get(identity):
            return known
        if name in self._tensors:
            raise ValueError(f"graph: two tensors named {name!r}")
        self._values[identity] = name
        self._tensors[name] = self._data.tensor(name, values, identity)
        return name

    def rows(self, name: str, values: NDArray[Any], size: int) -> list[str]:
        """Add a matrix as tensors of so many rows each; returns their names. The data file has an equal matrix once."""
        values = np.asarray(values, order="C")
        tensors = self._data.rows(name, values, size, identity_of(values))
        if any(tensor.name in self._tensors for tensor in tensors):
            raise ValueError(f"graph: two tensors named {name!r}")
        self._tensors |= {tensor.name: tensor for tensor in tensors}
        return [tensor.name for tensor in tensors]

    def once(self, key: Hashable, make: Callable[[], str]) -> str:
        """Return the value that `make` adds; it is called once per key, so that shared parameters are read once."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def ints(self, *values: int) -> str:
        """Constant int64 vector."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Constant float32 scalar."""
        return self._constant(np.array(value, np.float32))

    def index(self, value: int) -> str:
        """Constant int64 scalar."""
        return self._constant(np.array(value, np.int64))

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"const_{values.dtype}_{'x'.join(map(str, values.shape))}_{values.tolist()}"
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(values, name)
        return name

    def attach(self, nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int]) -> None:
        """Add nodes of another graph, whose values have distinct names.

        Args:
            nodes: The nodes, in an order in which they can be computed.
            opsets: Opset versions by domain; that of the standard operators is `OPSET` or later.
        """
        self._nodes.extend(nodes)
        self._opsets |= opsets

    def save(self, path: Path) -> None:
        """Write the graph beside its data file, without unused nodes and tensors, and check it with onnx.

        Raises:
            onnx.checker.ValidationError: The graph is not valid ONNX.
            onnx.shape_inference.InferenceError: The shapes in it do not fit each other.
        """
        self._write(path, self._nodes, self._outputs)
        onnx.checker.check_model(path, full_check=True)

    def save_draft(self, path: Path) -> None:
        """Write a draft, which is not valid ONNX, beside its data file."""
        self._opsets[DRAFT] = 1
        self._write(path, self._nodes, self._outputs)

    def save_values(self, path: Path, values: Iterable[str]) -> list[str]:
        """Write a graph that returns any float32 values, to inspect them; returns the names of its outputs."""
        nodes = [helper.make_node("Identity", [value], [f"value_{i}"]) for i, value in enumerate(values)]
        names = [node.output[0] for node in nodes]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        self._write(path, [*self._nodes, *nodes], outputs)
        return names

    def _write(self, path: Path, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto]) -> None:
        self._data.flush()
        nodes = needed(nodes, [value.name for value in outputs])
        used = {name for node in nodes for name in names_read(node)}
        tensors = [tensor for name, tensor in self._tensors.items() if name in used]
        graph = helper.make_graph(nodes, "embedrt", self._inputs, outputs, tensors)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=max(_IR_VERSION, helper.find_min_ir_version_for(opsets, ignore_unknown=True)),
            producer_name="embedrt",
            producer_version=__version__,
        )
        onnx.save_model(model, path)


def packed_value(name: str) -> onnx.ValueInfoProto:
    """Describe an input of a packed graph."""
    return helper.make_tensor_value_info(name, *_PACKED_INPUTS[name])


def needed(nodes: list[onnx.NodeProto], values: Iterable[str]) -> list[onnx.NodeProto]:
    """List the nodes that some values depend on, in their order."""
    read, chosen = set(values), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read |= names_read(node)
            chosen.append(node)
    return chosen[::-1]


def names_read(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, and those that its inner graphs read."""
    names = set(node.input)
    for graph in subgraphs(node):
        names.update(value.name for value in graph.output)
        names.update(*(names_read(inner) for inner in graph.node))
    return names


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Inner graphs of a node such as If or Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs

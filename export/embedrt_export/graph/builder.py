"""A thin builder over onnx's helpers. Weights go straight to the data file, so memory holds one tensor at a time."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt._version import __version__

OPSET = 20  # has Gelu and LayerNormalization; every execution provider that embedrt names runs it
_IR_VERSION = 9  # the one that opset 20 came with
_INLINE_BYTES = 1024
BOOL, FLOAT = int(TensorProto.BOOL), int(TensorProto.FLOAT)
INT32, INT64 = int(TensorProto.INT32), int(TensorProto.INT64)
# Large tensors start where every system can map a file from (Windows wants 64 KiB), small ones at a cache line.
_LARGE_BYTES, _LARGE_ALIGNMENT, _SMALL_ALIGNMENT = 1 << 20, 1 << 16, 64


class DataFile:
    """The file with the weights of one or more graphs. Equal tensors are stored once.

    Args:
        path: The file; it must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file: BinaryIO = path.open("xb")
        self._offsets: dict[bytes, int] = {}

    def __enter__(self) -> "DataFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def tensor(self, name: str, values: NDArray[Any], identity: bytes | None = None) -> TensorProto:
        """A tensor of a graph beside this file: small ones have their values inside, others in the file.

        Args:
            name: Its name.
            values: Its values.
            identity: What `identity_of` says of them, if that is known: it takes a while for large ones.
        """
        if values.nbytes < _INLINE_BYTES:
            return numpy_helper.from_array(values, name)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        offset = self._place(values, identity_of(values) if identity is None else identity)
        place = {"location": self.name, "offset": str(offset), "length": str(values.nbytes)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return tensor

    def _place(self, values: NDArray[Any], identity: bytes) -> int:
        """Writes a tensor, unless one of the same identity is there already, and returns its offset."""
        if identity in self._offsets:
            return self._offsets[identity]
        alignment = _LARGE_ALIGNMENT if values.nbytes >= _LARGE_BYTES else _SMALL_ALIGNMENT
        offset = -(-self._file.tell() // alignment) * alignment
        self._file.truncate(offset)
        self._file.seek(offset)
        # ONNX stores little-endian; on a machine that is, this is no copy.
        self._file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).data)
        self._offsets[identity] = offset
        return offset

    def flush(self) -> None:
        """Hands what was written to the system, so that a graph beside it can be checked."""
        self._file.flush()


class GraphBuilder:
    """Collects nodes and weights of one ONNX graph. Values are named by strings, as in ONNX.

    Nodes are pure functions of their inputs, so what is asked for twice is computed once.

    Args:
        data: Takes the weights.
    """

    def __init__(self, data: DataFile) -> None:
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._values: dict[bytes, str] = {}
        self._tensors: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._made: dict[Hashable, str] = {}
        self._opsets = {"": OPSET}

    @property
    def is_portable(self) -> bool:
        """Whether all operators are standard ones."""
        return set(self._opsets) == {""}

    def input(self, name: str) -> str:
        """Declares an int64 input `[batch, sequence]`."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        return name

    def output(self, name: str, value: str, shape: list[str | int]) -> None:
        """Declares a float32 output that has the value of `value`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a standard operator with one output and returns the output's name."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Adds a standard operator with several outputs and returns their names."""
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
        """Adds a tensor and returns its name: `name`, or that of an equal tensor which is there already."""
        values = np.asarray(values, order="C")  # np.ascontiguousarray would make vectors of scalars
        identity = identity_of(values)
        if known := self._values.get(identity):
            return known
        if name in self._tensors:
            raise ValueError(f"graph: two tensors named {name!r}")
        self._values[identity] = name
        self._tensors[name] = self._data.tensor(name, values, identity)
        return name

    def once(self, key: Hashable, make: Callable[[], str]) -> str:
        """The value that `make` adds, which is called for a key's first time only: shared parameters are read once."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float32 scalar."""
        return self._constant(np.array(value, np.float32))

    def index(self, value: int) -> str:
        """A constant int64 scalar."""
        return self._constant(np.array(value, np.int64))

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"const_{values.dtype}_{'x'.join(map(str, values.shape))}_{values.tolist()}"
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(values, name)
        return name

    def graft(self, nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int]) -> None:
        """Adds nodes of another graph, whose values have names of their own.

        Args:
            nodes: The nodes, in an order in which they can be computed.
            opsets: The versions of their operators by domain; standard ones are of `OPSET` or later.
        """
        self._nodes.extend(nodes)
        self._opsets |= opsets

    def save(self, path: Path) -> None:
        """Writes the graph beside its data file, without what no output needs, and has onnx check it.

        Raises:
            onnx.checker.ValidationError: The graph is not valid ONNX.
            onnx.shape_inference.InferenceError: The shapes in it do not fit each other.
        """
        self._write(path, self._nodes, self._outputs)
        onnx.checker.check_model(path, full_check=True)

    def save_values(self, path: Path, values: Iterable[str]) -> list[str]:
        """Writes a graph that returns any float32 values, for a look at them, and returns the names of its outputs."""
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


def identity_of(values: NDArray[Any]) -> bytes:
    """What only equal tensors have in common: SHA-256 over type, shape and values."""
    identity = hashlib.sha256(f"{values.dtype} {values.shape} ".encode())
    identity.update(values.reshape(-1).view(np.uint8).data)
    return identity.digest()


def needed(nodes: list[onnx.NodeProto], values: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that some values depend on, in their order."""
    read, chosen = set(values), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read |= names_read(node)
            chosen.append(node)
    return chosen[::-1]


def names_read(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads; those inside the graphs that it has as attributes are among them."""
    names = set(node.input)
    for graph in subgraphs(node):
        names.update(value.name for value in graph.output)
        names.update(*(names_read(inner) for inner in graph.node))
    return names


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node such as If or Loop has as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs

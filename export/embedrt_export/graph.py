"""A thin builder over onnx's helpers. Weights go straight to the data file, so memory holds one tensor at a time."""

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # has Gelu and LayerNormalization; every execution provider that embedrt names runs it
_IR_VERSION = 9  # the one that opset 20 came with
_INLINE_BYTES = 1024
BOOL, FLOAT = int(TensorProto.BOOL), int(TensorProto.FLOAT)
INT32, INT64 = int(TensorProto.INT32), int(TensorProto.INT64)
# Large tensors start where every system can map a file from (Windows wants 64 KiB), small ones at a cache line.
_LARGE_BYTES, _LARGE_ALIGNMENT, _SMALL_ALIGNMENT = 1 << 20, 1 << 16, 64


class GraphBuilder:
    """Collects nodes and weights of one ONNX graph. Values are named by strings, as in ONNX.

    Args:
        data: The file that takes the weights; it must not exist yet.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._file: BinaryIO = data.open("xb")
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def __enter__(self) -> "GraphBuilder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

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
        name = f"{op_type}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str, values: NDArray[np.float32]) -> str:
        """Adds a tensor under a name of its own."""
        if name in self._tensors:
            raise ValueError(f"graph: two tensors named {name!r}")
        values = np.ascontiguousarray(values)
        if values.nbytes < _INLINE_BYTES:
            self._tensors[name] = numpy_helper.from_array(values, name)
            return name
        alignment = _LARGE_ALIGNMENT if values.nbytes >= _LARGE_BYTES else _SMALL_ALIGNMENT
        offset = -(-self._file.tell() // alignment) * alignment
        self._file.truncate(offset)
        self._file.seek(offset)
        # ONNX stores little-endian; on a machine that is, this is no copy.
        self._file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).data)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._data.name, "offset": str(offset), "length": str(values.nbytes)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self._tensors[name] = tensor
        return name

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

    def save(self, path: Path) -> None:
        """Writes the graph beside its data file and has onnx check it.

        Raises:
            onnx.checker.ValidationError: The graph is not valid ONNX: a fault in the code that built it.
        """
        import embedrt

        self._file.close()
        graph = helper.make_graph(self._nodes, "embedrt", self._inputs, self._outputs, list(self._tensors.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="embedrt",
            producer_version=embedrt.__version__,
        )
        onnx.save_model(model, path)
        onnx.checker.check_model(path, full_check=True)

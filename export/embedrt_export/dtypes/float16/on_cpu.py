"""A graph for CUDA in operators that have CPU kernels, with the rounding of its dtype: what the export can measure.

Arithmetic is float32, and every value that CUDA keeps in a narrow dtype is rounded to it, as tensor cores do, which add
up in float32 and round the result. What a CUDA kernel rounds inside is not copied.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embedrt.engine.stream import SCRATCH
from embedrt_export.dtypes.float16.values import TO_INTEGER, Values, as_float32, attributes
from embedrt_export.dtypes.float16.write import ELEMENTS
from embedrt_export.graph.builder import FLOAT, INT64, names_read
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.opsets import MICROSOFT
from embedrt_export.layers.attention import MASKED

LARGEST = "largest of {}"
"""Name of the output that tells the largest absolute value that a node of this name computes."""


def on_cpu(graph: Path, target: Path, data: DataFile, dtype: str, *, watched: bool = False) -> list[str]:
    """Write a graph that computes on the CPU what another one computes on CUDA.

    Args:
        graph: A graph in the dtype, beside its data file.
        target: The file to write.
        data: File for its weights in float32, beside it.
        dtype: The dtype to round to; "float32" rounds nothing.
        watched: True to also return the largest absolute value that each node computes, in outputs `LARGEST`.

    Returns:
        The names of its inputs: those of the graph without the memory for keys and values, which it does not need.
    """
    model = onnx.load(graph, load_external_data=False)
    return _Writer(Values(model, graph.parent), data, dtype).write(target, watched=watched)


class _Writer:
    def __init__(self, values: Values, data: DataFile, dtype: str) -> None:
        self._values = values
        self._data = data
        self._element = ELEMENTS[dtype]
        self._narrow = set() if dtype == "float32" else _narrow_values(values, self._element)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._once: dict[str, str] = {}
        self._rewritten: dict[str, Callable[[onnx.NodeProto], None]] = {
            "PackedMultiHeadAttention": self._multi_head,
            "PagedAttention": self._paged,
        }

    def write(self, target: Path, *, watched: bool) -> list[str]:
        graph = self._values.model.graph
        largest: list[str] = []
        for node in graph.node:
            plain = _in_float32(node, self._element)
            rounded = [name for name in node.output if name in self._narrow]
            if rounded:
                plain.name += "/exact"
                del plain.output[:]
                plain.output.extend(f"{name}/exact" if name else "" for name in node.output)
            self._rewritten.get(node.op_type, self._nodes.append)(plain)
            for name in rounded:
                self._round(f"{name}/exact", name)
                if watched:
                    largest.append(self._largest(f"{name}/exact", LARGEST.format(name)))
        read = {name for node in self._nodes for name in names_read(node)}
        for name in sorted(read & self._values.constants):
            array = self._values.array(name)
            self._constant(name, as_float32(array) if self._values.is_float(name) else array)
        inputs = [value for value in graph.input if value.name not in SCRATCH and value.name in read]
        outputs = [helper.make_tensor_value_info(value.name, FLOAT, _shape(value)) for value in graph.output]
        outputs += [helper.make_tensor_value_info(name, FLOAT, []) for name in largest]
        made = helper.make_graph(self._nodes, "embedrt", inputs, outputs, list(self._tensors.values()))
        self._data.flush()
        onnx.save_model(helper.make_model(made, opset_imports=self._values.model.opset_import, ir_version=10), target)
        return [value.name for value in inputs]

    def _add(self, op_type: str, output: str, *inputs: str, domain: str = "", **attrs: Any) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=output, domain=domain, **attrs))
        return output

    def _shared(self, name: str, make: Callable[[], str]) -> str:
        if name not in self._once:
            self._once[name] = make()
        return self._once[name]

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        if name not in self._tensors:
            self._tensors[name] = self._data.tensor(name, np.asarray(array, order="C"))
        return name

    def _ints(self, *numbers: int) -> str:
        return self._constant(f"on cpu: ints {numbers}", np.array(numbers, np.int64))

    def _round(self, exact: str, name: str) -> None:
        """Round a value to the dtype and back."""
        narrow = self._add("Cast", f"{name}/narrow", exact, to=self._element)
        self._add("Cast", name, narrow, to=FLOAT)

    def _largest(self, value: str, name: str) -> str:
        size = self._add("Abs", f"{name}/absolute", value)
        return self._add("ReduceMax", name, size, keepdims=0)

    # Attention over packed tokens, by plain operators over padded rows.

    def _multi_head(self, node: onnx.NodeProto) -> None:
        of, name = attributes(node), node.output[0]
        query, key, value, bias, _, _, added = [*node.input, "", ""][:7]
        heads = of["num_heads"]
        if not key:  # `[tokens, heads, 3, size]`
            parts = [f"{name}/part{i}" for i in range(3)]
            splits = self._ints(1, 1, 1)
            self._nodes.append(helper.make_node("Split", [query, splits], parts, name=f"{name}/split", axis=2))
            query, key, value = (self._add("Reshape", f"{part}/flat", part, self._ints(0, -1)) for part in parts)
        if bias:
            sides = [f"{name}/bias{i}" for i in range(3)]
            self._nodes.append(helper.make_node("Split", [bias], sides, name=f"{name}/biases", axis=0, num_outputs=3))
            query, key, value = (
                self._add("Add", f"{side}/added", part, side)
                for part, side in zip((query, key, value), sides, strict=True)
            )
        self._attention(name, (query, key, value), (heads, heads), of["scale"], self._mask(None, causal=False), added)

    def _paged(self, node: onnx.NodeProto) -> None:
        of, name = attributes(node), node.output[0]
        inputs = [*node.input, *[""] * 17][:17]
        query, key, value, cos, sin, query_norm, key_norm = (inputs[i] for i in (0, 1, 2, 8, 9, 12, 13))
        heads, key_heads = of["num_heads"], of["kv_num_heads"]
        if not key:
            size = self._head_size(node)
            parts = [f"{name}/part{i}" for i in range(3)]
            splits = self._ints(heads * size, key_heads * size, key_heads * size)
            self._nodes.append(helper.make_node("Split", [query, splits], parts, name=f"{name}/split", axis=1))
            query, key, value = parts
        turned = []
        for side, part, count, weight in (("query", query, heads, query_norm), ("key", key, key_heads, key_norm)):
            at = f"{name}/{side}"
            if weight:
                by_head = self._add("Reshape", f"{at}/heads", part, self._ints(0, count, -1))
                normed = self._add(
                    "RMSNormalization", f"{at}/normed", by_head, weight, axis=-1, epsilon=of["qk_norm_epsilon"]
                )
                part = self._add("Reshape", f"{at}/flat", normed, self._ints(0, -1))  # noqa: PLW2901
            if of.get("do_rotary"):
                part = self._rotated(at, part, cos, sin, count)  # noqa: PLW2901
            turned.append(part)
        window = of.get("local_window_size", -1)
        mask = self._mask(window if window > 0 else None, causal=bool(of["is_causal"]))
        self._attention(name, (turned[0], turned[1], value), (heads, key_heads), of["scale"], mask, "")

    def _head_size(self, node: onnx.NodeProto) -> int:
        scratch = next(value for value in self._values.model.graph.input if value.name == node.input[3])
        return int(scratch.type.tensor_type.shape.dim[3].dim_value)

    def _rotated(self, name: str, x: str, cos: str, sin: str, heads: int) -> str:
        positions = self._shared("positions", self._positions)
        stream = self._add("Unsqueeze", f"{name}/stream", x, self._ints(0))
        turned = self._add(
            "RotaryEmbedding", f"{name}/turned", stream, positions, cos, sin, domain=MICROSOFT, num_heads=heads,
            is_packed_batching=1,
        )  # fmt: skip
        return self._add("Squeeze", f"{name}/rotated", turned, self._ints(0))

    def _positions(self) -> str:
        """The position of every token in its text, int64 `[1, tokens]`, from where the texts start."""
        first = self._add("Gather", "row/first", self._starts(), self._text_of_token())
        rows = self._stream_rows()
        return self._add("Unsqueeze", "positions/stream", self._add("Sub", "positions/all", rows, first), self._ints(0))

    def _starts(self) -> str:
        return self._shared("starts", lambda: self._add("Cast", "starts/wide", "starts", to=INT64))

    def _stream_rows(self) -> str:
        """0, 1, ... for all tokens, those behind the last text too."""

        def make() -> str:
            count = self._add("Shape", "stream/count", self._stream())
            count = self._add("Squeeze", "stream/number", count, self._ints(0))
            zero, one = (self._constant(f"on cpu: index {i}", np.array(i, np.int64)) for i in (0, 1))
            return self._add("Range", "stream/rows", zero, count, one)

        return self._shared("stream rows", make)

    def _stream(self) -> str:
        """An input with one number for each token."""
        names = [value.name for value in self._values.model.graph.input]
        return "input_ids" if "input_ids" in names else "token_type_ids"

    def _text_of_token(self) -> str:
        """The text of every token, int64 `[tokens]`; tokens behind the last text count to the last one."""

        def make() -> str:
            starts, rows = self._starts(), self._stream_rows()
            left = self._add("Unsqueeze", "text/rows", rows, self._ints(1))
            inner = self._add("Slice", "text/inner", starts, self._ints(1), self._ints(-1))
            above = self._add("Unsqueeze", "text/starts", inner, self._ints(0))
            behind = self._add("Cast", "text/ones", self._add("GreaterOrEqual", "text/behind", left, above), to=INT64)
            return self._add("ReduceSum", "text/number", behind, self._ints(1), keepdims=0)

        return self._shared("text of token", make)

    def _mask(self, window: int | None, *, causal: bool) -> str:
        """0 or the lowest float for every pair of tokens, as they attend within their text: `[tokens, tokens]`."""
        key = f"mask {window} {causal}"

        def make() -> str:
            text, rows = self._text_of_token(), self._stream_rows()
            own, other = (self._add("Unsqueeze", f"{key}/{axis}", text, self._ints(axis)) for axis in (1, 0))
            visible = self._add("Equal", f"{key}/same", own, other)
            queries, keys = (self._add("Unsqueeze", f"{key}/rows{axis}", rows, self._ints(axis)) for axis in (1, 0))
            ahead = self._add("Sub", f"{key}/ahead", keys, queries)
            limits = {"LessOrEqual": 0 if causal else None, "Greater": None if window is None else -window}
            for op_type, limit in limits.items():
                if limit is not None:
                    number = self._constant(f"on cpu: index {limit}", np.array(limit, np.int64))
                    near = self._add(op_type, f"{key}/{op_type}", ahead, number)
                    visible = self._add("And", f"{key}/and {op_type}", visible, near)
            zero, lowest = (self._constant(f"on cpu: float {x}", np.array(x, np.float32)) for x in (0.0, MASKED))
            return self._add("Where", key, visible, zero, lowest)

        return self._shared(key, make)

    def _attention(
        self,
        name: str,
        parts: tuple[str, str, str],
        heads: tuple[int, int],
        scale: float,
        mask: str,
        added: str,
    ) -> None:
        """Softmax attention over the whole stream, with a mask that keeps texts apart.

        Args:
            name: The result, `[tokens, heads x size]`.
            parts: Queries, keys and values, `[tokens, heads x size]`.
            heads: Heads of queries, and of keys and values.
            scale: Factor of the scores.
            mask: float32 `[tokens, tokens]`.
            added: A bias by place in the text, `[1, heads or 1, length, length]`; empty for none.
        """
        rows = []
        for side, part, count in zip(("query", "key", "value"), parts, (heads[0], heads[1], heads[1]), strict=True):
            split = self._add("Reshape", f"{name}/{side}/split", part, self._ints(0, count, -1))
            by_head = self._add("Transpose", f"{name}/{side}/by head", split, perm=[1, 0, 2])
            if count != heads[0]:
                index = np.repeat(np.arange(count), heads[0] // count)
                repeats = self._constant(f"repeat {count} {heads[0]}", index)
                by_head = self._add("Gather", f"{name}/{side}/repeated", by_head, repeats)
            rows.append(by_head)
        query, key, value = rows
        turned = self._add("Transpose", f"{name}/key/columns", key, perm=[0, 2, 1])
        scores = self._add("MatMul", f"{name}/scores", query, turned)
        if scale != 1.0:
            factor = self._constant(f"on cpu: float {scale}", np.array(scale, np.float32))
            scores = self._add("Mul", f"{name}/scaled", scores, factor)
        if added:
            scores = self._add("Add", f"{name}/biased", scores, self._by_token(added))
        weights = self._add("Softmax", f"{name}/weights", self._add("Add", f"{name}/masked", scores, mask), axis=-1)
        total = self._add("MatMul", f"{name}/sum", weights, value)
        context = self._add("Transpose", f"{name}/context", total, perm=[1, 0, 2])
        self._add("Reshape", name, context, self._ints(0, -1))

    def _by_token(self, added: str) -> str:
        """A bias by place in the text, as one by row of the stream: `[heads or 1, tokens, tokens]`."""

        def make() -> str:
            places = self._add("Squeeze", f"{added}/places", self._shared("positions", self._positions), self._ints(0))
            length = self._add("Shape", f"{added}/length", added, start=3)
            limit = self._add("Sub", f"{added}/last", length, self._ints(1))
            places = self._add("Min", f"{added}/inside", places, limit)  # tokens behind the last text may lie far out
            square = self._add("Squeeze", f"{added}/by head", added, self._ints(0))
            by_query = self._add("Gather", f"{added}/by query", square, places, axis=1)
            return self._add("Gather", f"{added}/by key", by_query, places, axis=2)

        return self._shared(f"{added} by token", make)


def _shape(value: onnx.ValueInfoProto) -> list[Any]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]


def _narrow_values(values: Values, element: int) -> set[str]:
    """The values and weights of a graph that are in the dtype."""
    narrow = {name for name in values.constants if values.element(name) == element}
    for node in values.nodes:
        to = attributes(node)["to"] if node.op_type == "Cast" else None
        reads = bool(narrow.intersection(node.input)) and node.op_type not in TO_INTEGER
        if to == element or (to is None and reads):
            narrow.update(name for name in node.output if name)
    return narrow


def _in_float32(node: onnx.NodeProto, element: int) -> onnx.NodeProto:
    """The node with its casts to the dtype made to float32."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    if node.op_type == "Cast" and attributes(node)["to"] == element:
        del copied.attribute[:]
        copied.attribute.append(helper.make_attribute("to", FLOAT))
    return copied

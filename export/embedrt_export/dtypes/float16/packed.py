"""Packed graphs for CUDA: a draft's operators, replaced by those for which ONNX Runtime has fast CUDA kernels.

It fuses nothing in a graph whose hidden states are `[tokens, hidden]`, so the fused operators are written here. A node
that an operator after it can absorb is written only when something asks for its value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from embedrt.bundle.manifest import Scratch
from embedrt.engine.stream import BLOCK, SCRATCH
from embedrt_export.dtypes.float16.values import Values, as_float32, attributes
from embedrt_export.graph.builder import INT64, packed_value
from embedrt_export.graph.opsets import MICROSOFT
from embedrt_export.layers.attention import MASKED

_HEAD_STEP, _WIDEST_HEAD = 8, 256  # of flash and memory-efficient attention
_ROTATED_STEP = 16  # of the rotation in PagedAttention
_BIAS_STEP = 8  # the kernel that adds a bias to the scores reads so many of them at a time


class NoPackedFormError(Exception):
    """Attention that no operator for packed tokens computes."""


@dataclass
class Lowered:
    """A graph of real operators whose floats have no dtype yet.

    Attributes:
        nodes: The nodes. Those of the domain `DRAFT` are `ToFloat` and `ToHidden`.
        copied: The names of the nodes that are as in the draft.
        constants: New weights by name, each with a function that makes it.
        inputs: The names of the packed inputs.
        length_step: See `Packing` in the manifest.
        scratch: See `Packing` in the manifest.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    copied: set[str] = field(default_factory=set)
    constants: dict[str, Callable[[], NDArray[Any]]] = field(default_factory=dict)
    inputs: dict[str, None] = field(default_factory=dict)
    length_step: int = 1
    scratch: Scratch | None = None


@dataclass(frozen=True)
class _Part:
    """Queries, keys or values on their way from a linear layer into attention.

    Attributes:
        flat: The value `[tokens, heads x size]` that they start as.
        heads: Number of heads.
        norm: The RMS normalization of each head, if any.
        turn: The rotation of each head, if any.
    """

    flat: str
    heads: int
    norm: onnx.NodeProto | None
    turn: onnx.NodeProto | None


def lower(values: Values, dtype: str) -> Lowered:
    """Replace the operators of a packed draft.

    Args:
        values: The draft.
        dtype: The dtype of the hidden states: "float16", "bfloat16", or "float32" to test the graph itself.

    Raises:
        NoPackedFormError: Attention of this kind has no packed operator in the dtype.
    """
    return _Lowering(values, dtype).lowered()


class _Lowering:
    def __init__(self, values: Values, dtype: str) -> None:
        self._values = values
        self._dtype = dtype
        self._out = Lowered()
        self._made = {value.name for value in values.model.graph.input} | values.constants
        self._once: dict[Any, str] = {}
        self._handlers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "LayerNormalization": self._norm,
            "RMSNorm": self._norm,
            "Gelu": self._gelu,
            "Mul": self._mul,
            "Split": self._split,
            "Attend": self._attend,
        }

    def lowered(self) -> Lowered:
        for node in self._values.nodes:
            if not self._is_absorbed(node):
                self._handlers.get(node.op_type, self._copy)(node)
        for value in self._values.model.graph.input:
            self._out.inputs[value.name] = None
        return self._out

    def _is_absorbed(self, node: onnx.NodeProto) -> bool:
        """True for a node that is written only when its value is asked for."""
        if node.op_type in {"Heads", "Rotate"}:
            return True
        if node.op_type == "RMSNorm":
            return self._values.made_by(node.input[0], "Heads") is not None
        is_hidden = self._values.regions[node.output[0]] == "hidden"
        sums = node.op_type == "Add" and not self._values.constants.intersection(node.input)
        return is_hidden and (node.op_type == "Gemm" or sums)

    # Writing.

    def _add(self, op_type: str, output: str, *inputs: str, domain: str = "", **attrs: Any) -> str:
        return self._adds(op_type, [output], *inputs, domain=domain, **attrs)

    def _adds(self, op_type: str, outputs: Sequence[str], *inputs: str, domain: str = "", **attrs: Any) -> str:
        node = helper.make_node(op_type, inputs, outputs, name=outputs[0], domain=domain, **attrs)
        self._out.nodes.append(node)
        self._made.update(name for name in outputs if name)
        return outputs[0]

    def _shared(self, key: Any, make: Callable[[], str]) -> str:
        """The value that `make` writes, once per key."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    def _constant(self, name: str, make: Callable[[], NDArray[Any]]) -> str:
        self._out.constants.setdefault(name, make)
        return name

    def _ints(self, *numbers: int) -> str:
        return self._constant(f"ints {numbers}", lambda: np.array(numbers, np.int64))

    def _input(self, name: str) -> str:
        self._out.inputs[name] = None
        return name

    def _copy(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            self._value(name)
        self._out.nodes.append(node)
        self._out.copied.add(node.name)
        self._made.update(node.output)

    def _value(self, name: str) -> str:
        """Write what computes a value, if nothing has yet; returns its name."""
        if name in self._made or not name:
            return name
        node = self._values.maker(name)
        if node is None or node.op_type not in {"Gemm", "Add"} or not self._is_absorbed(node):
            raise ValueError(f"graph: {name} is read before it is computed, or outside of attention")
        if node.op_type == "Gemm":
            return self._linear(name, [node])
        return self._add("Add", name, *map(self._value, node.input))

    def _turn(self, name: str, x: str, heads: int, size: int, rotated: int, *inputs: str) -> str:
        cos, sin, positions = inputs
        batch = self._add("Unsqueeze", f"{name}/stream", x, self._ints(0))
        where = self._shared(("positions", positions), lambda: self._positions(positions))
        partial = {} if rotated == size else {"rotary_embedding_dim": rotated}
        turned = self._add(
            "RotaryEmbedding",
            f"{name}/turned",
            batch,
            where,
            self._value(cos),
            self._value(sin),
            domain=MICROSOFT,
            num_heads=heads,
            is_packed_batching=1,
            **partial,
        )
        return self._add("Squeeze", name, turned, self._ints(0))

    def _positions(self, positions: str) -> str:
        wide = self._add("Cast", f"{positions}/wide", self._value(positions), to=INT64)
        return self._add("Unsqueeze", f"{positions}/stream", wide, self._ints(0))

    # Linear layers.

    def _linear(self, name: str, nodes: Sequence[onnx.NodeProto], repeats: Sequence[tuple[int, int]] = ()) -> str:
        """Write one product for the linear layers `nodes`, which read the same input, with their biases.

        Args:
            name: The result, `[tokens, all outputs]`.
            nodes: The layers.
            repeats: For each layer, how often each head of its output is repeated, and the heads' size.
        """
        x = self._value(nodes[0].input[0])
        times = list(repeats) or [(1, 1)] * len(nodes)
        weight = self._joined("weight", nodes, times)
        if not any(len(node.input) > 2 for node in nodes):
            return self._add("MatMul", name, x, weight)
        return self._add("Gemm", name, x, weight, self._joined("bias", nodes, times))

    def _joined(self, kind: str, nodes: Sequence[onnx.NodeProto], times: Sequence[tuple[int, int]]) -> str:
        """The weights `[inputs, all outputs]` or the biases of several layers as one constant."""
        at = 1 if kind == "weight" else 2
        names = tuple(node.input[at] if len(node.input) > at else f"no bias of {node.input[1]}" for node in nodes)
        parts = [f"{name} x {repeat[0]}" if repeat[0] > 1 else name for name, repeat in zip(names, times, strict=True)]

        def make() -> NDArray[Any]:
            rows = [_repeated(self._parameter(node, at), *repeat) for node, repeat in zip(nodes, times, strict=True)]
            return np.ascontiguousarray(np.concatenate(rows).T)

        return self._constant(f"{' | '.join(parts)}{'.T' if kind == 'weight' else ''}", make)

    def _parameter(self, node: onnx.NodeProto, at: int) -> NDArray[np.float32]:
        """Weight `[outputs, inputs]` or bias `[outputs]` of a linear layer."""
        if len(node.input) > at:
            return as_float32(self._values.array(node.input[at]))
        return np.zeros(len(self._values.array(node.input[1])), np.float32)

    def _product(self, name: str) -> tuple[str, str | None]:
        """A value as a product and the bias that is still to be added; the bias is None if there is none."""
        node = self._values.made_by(name, "Gemm")
        if node is None or name in self._made or len(node.input) < 3 or self._values.reads[name] > 1:
            return self._value(name), None
        product = self._add(
            "MatMul", f"{name}/product", self._value(node.input[0]), self._joined("weight", [node], [(1, 1)])
        )
        return product, node.input[2]

    def _split(self, node: onnx.NodeProto) -> None:
        """Write the parts of a linear layer as layers of their own, which takes no copy of its output."""
        source = node.input[0]
        layer = self._values.made_by(source, "Gemm")
        is_last_axis = attributes(node).get("axis") == -1 and len(node.input) > 1
        if layer is None or source in self._made or self._values.reads[source] > 1 or not is_last_axis:
            self._copy(node)
            return
        start = 0
        for output, size in zip(node.output, self._values.array(node.input[1]).tolist(), strict=True):
            rows = slice(start, start + size)
            weight, *bias = (self._rows(layer, at, rows) for at in range(1, len(layer.input)))
            self._add("Gemm" if bias else "MatMul", output, self._value(layer.input[0]), weight, *bias)
            start += size

    def _rows(self, layer: onnx.NodeProto, at: int, rows: slice) -> str:
        """Some rows of a layer's weight, as `[inputs, rows]`, or of its bias."""
        turned = ".T" if at == 1 else ""
        return self._constant(
            f"{layer.input[at]}[{rows.start}:{rows.stop}]{turned}",
            lambda: np.ascontiguousarray(self._parameter(layer, at)[rows].T),
        )

    # Norms and activations.

    def _norm(self, node: onnx.NodeProto) -> None:
        """Write a norm, together with the sum that it reads."""
        source, gamma, *beta = node.input
        is_rms = node.op_type == "RMSNorm"
        added = self._values.made_by(source, "Add")
        absorbs = added is not None and source not in self._made and self._is_absorbed(added)
        if added is None or not absorbs or self._values.regions[source] != "hidden":
            op_type = "RMSNormalization" if is_rms else "LayerNormalization"
            self._add(op_type, node.output[0], self._value(source), gamma, *beta, **_norm_attributes(node))
            return
        first, bias = self._product(added.input[0])
        second, bias = self._product(added.input[1]) if bias is None else (self._value(added.input[1]), bias)
        parts = [first, second, gamma] if is_rms else [first, second, gamma, beta[0] if beta else ""]
        outputs = [node.output[0], "", "", source] if self._values.reads[source] > 1 else [node.output[0]]
        self._adds(
            "SkipSimplifiedLayerNormalization" if is_rms else "SkipLayerNormalization",
            outputs,
            *_without_trailing([*parts, bias or ""]),
            domain=MICROSOFT,
            epsilon=attributes(node)["epsilon"],
        )

    def _gelu(self, node: onnx.NodeProto) -> None:
        if self._values.regions[node.output[0]] != "hidden":
            self._copy(node)
            return
        product, bias = self._product(node.input[0])
        if bias is None:
            self._copy(node)
            return
        is_tanh = attributes(node).get("approximate", b"none") == b"tanh"
        self._add("FastGelu" if is_tanh else "BiasGelu", node.output[0], product, bias, domain=MICROSOFT)

    def _mul(self, node: onnx.NodeProto) -> None:
        """Write `x * sigmoid(alpha * x)` as one operator."""
        x, gate = node.input
        sigmoid = self._values.made_by(gate, "Sigmoid")
        if sigmoid is None or self._values.regions[node.output[0]] != "hidden":
            self._copy(node)
            return
        inside, alpha = sigmoid.input[0], 1.0
        scaled = self._values.made_by(inside, "Mul")
        if inside != x and scaled is not None and scaled.input[0] == x and scaled.input[1] in self._values.constants:
            inside, alpha = x, float(self._values.array(scaled.input[1]))
        if inside != x:
            self._copy(node)
            return
        self._add("QuickGelu", node.output[0], self._value(x), domain=MICROSOFT, alpha=alpha)

    # Attention.

    def _attend(self, node: onnx.NodeProto) -> None:
        """Write attention with the operator that computes it in the dtype."""
        of = attributes(node)
        if of["size"] % _HEAD_STEP or of["size"] > _WIDEST_HEAD:
            # PackedMultiHeadAttention then takes a kernel that reads `token_index` in a format of its own.
            raise NoPackedFormError(f"no kernel for packed tokens has heads of width {of['size']}")
        window = of.get("before"), of.get("after")
        parts = [self._part(name) for name in node.input[:3]]
        relative = node.input[3] if len(node.input) > 3 else None
        one_sided = window == (None, None) or window[1] == 0
        # Float32, which PagedAttention does not have, is for tests of the graph itself.
        is_rotated = parts[0].turn is not None and self._dtype != "float32"
        is_pageable = one_sided and relative is None and not (is_rotated and of["size"] % _ROTATED_STEP)
        if is_pageable and (window[1] == 0 or of["groups"] > 1 or self._dtype == "bfloat16"):
            self._paged(node, parts, of)
        elif window[1] == 0 or self._dtype == "bfloat16":
            raise NoPackedFormError(
                "attention with a bias, with a window on both sides, or with rotated heads of a width that is no "
                f"multiple of {_ROTATED_STEP}, has no packed form "
                + ("in bfloat16" if self._dtype == "bfloat16" else "in a causal model")
            )
        else:
            self._multi_head(node, parts, of, relative)

    def _part(self, name: str) -> _Part:
        """Follow queries, keys or values back to the linear layer."""
        turn = self._values.made_by(name, "Rotate")
        inside = name if turn is None else turn.input[0]
        norm = self._values.made_by(inside, "RMSNorm")
        inside = inside if norm is None else norm.input[0]
        heads = self._values.made_by(inside, "Heads")
        if heads is None:
            raise NoPackedFormError(f"attention over {name}, which is not split into heads")
        return _Part(heads.input[0], attributes(heads)["heads"], norm, turn)

    def _layers(self, parts: Sequence[_Part]) -> list[onnx.NodeProto] | None:
        """The linear layers of several parts, if they read the same input and nothing else reads them."""
        layers = [self._values.made_by(part.flat, "Gemm") for part in parts]
        found = [layer for layer in layers if layer is not None and layer.output[0] not in self._made]
        return found if len(found) == len(parts) and len({layer.input[0] for layer in found}) == 1 else None

    def _multi_head(self, node: onnx.NodeProto, parts: list[_Part], of: dict[str, Any], relative: str | None) -> None:
        """Attention in both directions over all tokens of a text, with a bias by offset or window if there is one."""
        heads, size, groups = of["heads"], of["size"], of["groups"]
        output, bias = node.output[0], self._score_bias(of, relative)
        layers = self._layers(parts)
        is_plain = groups == 1 and all(part.norm is None and part.turn is None for part in parts)
        if layers is not None and is_plain:
            inputs = self._packed_qkv(output, layers, heads, size)
        else:
            repeat = [1, groups, groups]
            query, key, value = (
                self._head_rows(f"{output}/{name}", part, times, size)
                for name, part, times in zip(("query", "key", "value"), parts, repeat, strict=True)
            )
            inputs = [query, key, value, ""]
        index, starts = self._input("token_index"), self._input("starts")
        self._add(
            "PackedMultiHeadAttention",
            output,
            *_without_trailing([*inputs, index, starts, bias or ""]),
            domain=MICROSOFT,
            num_heads=heads,
            scale=1.0,  # queries are scaled already
        )

    def _packed_qkv(self, output: str, layers: list[onnx.NodeProto], heads: int, size: int) -> list[str]:
        """One product for queries, keys and values, with columns in the order head, (query, key, value), coordinate."""
        names = tuple(layer.input[1] for layer in layers)

        def make() -> NDArray[Any]:
            weights = [self._parameter(layer, 1).T for layer in layers]
            by_head = np.stack([weight.reshape(len(weight), heads, size) for weight in weights], axis=2)
            return by_head.reshape(len(weights[0]), 3 * heads * size)

        weight = self._constant(f"{' | '.join(names)} by head", make)
        product = self._add("MatMul", f"{output}/product", self._value(layers[0].input[0]), weight)
        qkv = self._add("Reshape", f"{output}/qkv", product, self._ints(-1, heads, 3, size))
        has_bias = any(len(layer.input) > 2 for layer in layers)
        return [qkv, "", "", self._joined("bias", layers, [(1, 1)] * 3) if has_bias else ""]

    def _head_rows(self, name: str, part: _Part, repeat: int, size: int) -> str:
        """Queries, keys or values `[tokens, heads x size]`, with each head repeated for the heads that share it."""
        layers = self._layers([part])
        heads = part.heads * repeat
        if repeat == 1:
            x = self._value(part.flat)
        elif layers is not None:
            x = self._linear(f"{name}/rows", layers, [(repeat, size)])
        else:
            raise NoPackedFormError("attention whose shared heads are no linear layer")
        if part.norm is not None:
            by_head = self._add("Reshape", f"{name}/heads", x, self._ints(-1, heads, size))
            normed = self._add(
                "RMSNormalization", f"{name}/normed", by_head, part.norm.input[1], **_norm_attributes(part.norm)
            )
            x = self._add("Reshape", f"{name}/rows of heads", normed, self._ints(-1, heads * size))
        if part.turn is not None:
            x = self._turn(name, x, heads, size, attributes(part.turn)["size"], *part.turn.input[1:])
        return x

    def _score_bias(self, of: dict[str, Any], relative: str | None) -> str | None:
        """The term of the scores, `[1, heads or 1, length, length]`, or None if nothing is added."""
        before, after = of.get("before"), of.get("after")
        if before is None and after is None:
            bias = None if relative is None else self._value(relative)
        else:
            band = self._shared(("band", before, after), lambda: self._band(before, after))
            bias = band if relative is None else self._add("Add", f"{relative}/{band}", self._value(relative), band)
        if bias is not None:
            self._out.length_step = _BIAS_STEP
        return bias

    def _band(self, before: int | None, after: int | None) -> str:
        """0 for tokens in the window, the lowest number for all others."""
        name = f"band {before} {after}"
        positions = self._shared("offsets", lambda: self._add("Cast", "offsets/wide", self._input("offsets"), to=INT64))
        keys, queries = (
            self._add("Unsqueeze", f"{name}/{side}", positions, self._ints(axis))
            for side, axis in (("keys", 0), ("queries", 1))
        )
        ahead = self._add("Sub", f"{name}/ahead", keys, queries)
        limits = []
        for op_type, limit in (("LessOrEqual", after), ("GreaterOrEqual", None if before is None else -before)):
            if limit is not None:
                number = self._constant(f"index {limit}", lambda limit=limit: np.array(limit, np.int64))  # type: ignore[misc]
                limits.append(self._add(op_type, f"{name}/{op_type}", ahead, number))
        visible = limits[0] if len(limits) == 1 else self._add("And", f"{name}/visible", *limits)
        zero, lowest = (
            self._constant(f"float {number}", lambda number=number: np.array(number, np.float32))  # type: ignore[misc]
            for number in (0.0, MASKED)
        )
        square = self._add("Where", f"{name}/square", visible, zero, lowest)
        return self._add("Unsqueeze", name, square, self._ints(0, 1))

    def _paged(self, node: onnx.NodeProto, parts: list[_Part], of: dict[str, Any]) -> None:
        """Attention whose heads may share keys and values, causal or not, with norms and rotation inside."""
        heads, size = of["heads"], of["size"]
        query, key, value = parts
        layers = self._layers(parts)
        if value.norm is not None or value.turn is not None or (query.norm is None) != (key.norm is None):
            raise NoPackedFormError("attention with norms or rotation of some parts only has no packed form")
        if (query.turn is None) != (key.turn is None):
            raise NoPackedFormError("attention with rotated queries or keys alone has no packed form")
        if query.turn is not None and attributes(query.turn)["size"] != size:
            raise NoPackedFormError("attention with partly rotated heads has no packed form in bfloat16")
        scratch = Scratch(key.heads, size)
        if self._out.scratch not in {None, scratch}:
            raise NoPackedFormError("attention whose layers have heads of different sizes has no packed form")
        self._out.scratch = scratch
        output = node.output[0]
        if layers is not None:
            qkv = [self._linear(f"{output}/qkv", layers), "", ""]
        else:
            qkv = [self._value(part.flat) for part in parts]
        turn = ["", ""] if query.turn is None else [self._value(name) for name in query.turn.input[1:3]]
        norms = [part.norm.input[1] if part.norm is not None else "" for part in (query, key)]
        extra: dict[str, Any] = {} if query.norm is None else {"qk_norm_epsilon": attributes(query.norm)["epsilon"]}
        if of.get("before") is not None:
            extra["local_window_size"] = of["before"] + 1  # the token itself counts
        names = (*SCRATCH, "starts", "past_lengths", "block_table")
        self._add(
            "PagedAttention",
            output,
            *qkv,
            *map(self._input, names),
            *turn,
            "",
            "",
            *norms,
            "",
            "",
            self._input("longest"),
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=key.heads,
            do_rotary=int(query.turn is not None),
            is_causal=int(of.get("after") == 0),
            scale=1.0,  # queries are scaled already
            **extra,
        )


def input_values(lowered: Lowered, element: int) -> list[onnx.ValueInfoProto]:
    """Describe the inputs of a packed graph; `element` is the dtype of the hidden states."""
    values = []
    for name in lowered.inputs:
        if name in SCRATCH and lowered.scratch is not None:
            shape: list[str | int] = ["blocks", BLOCK, lowered.scratch.heads, lowered.scratch.size]
            values.append(helper.make_tensor_value_info(name, element, shape))
        else:
            values.append(packed_value(name))
    return values


def _norm_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {"axis": -1, "epsilon": attributes(node)["epsilon"]}


def _repeated(rows: NDArray[np.float32], times: int, size: int) -> NDArray[np.float32]:
    """Repeat every head of `size` rows."""
    if times == 1:
        return rows
    heads = rows.reshape(-1, size, *rows.shape[1:])
    return np.repeat(heads, times, axis=0).reshape(-1, *rows.shape[1:])


def _without_trailing(names: Sequence[str]) -> list[str]:
    """Inputs of a node without the ones that are left out at the end."""
    end = max((i + 1 for i, name in enumerate(names) if name), default=0)
    return list(names[:end])

"""Small graphs written by hand, node by node: what packed encoders and decoders look like, and what goes wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

FLOAT16, BFLOAT16, FLOAT32 = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT
INT32, INT64 = TensorProto.INT32, TensorProto.INT64
OPSET = 22
_NUMPY: dict[int, Any] = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16, FLOAT32: np.float32, INT64: np.int64}
_FUSED = "com.microsoft"


class Writer:
    """Collects nodes and weights of one graph.

    Args:
        dtype: Of weights, as ONNX numbers it.
    """

    def __init__(self, dtype: int) -> None:
        self.dtype = dtype
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def take(self, name: str, shape: Sequence[int | str], dtype: int = INT32) -> str:
        """An input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def give(self, name: str, shape: Sequence[int | str] | None, dtype: int) -> None:
        """An output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def weight(self, *shape: int, dtype: int | None = None) -> str:
        """A weight of ones."""
        kind = self.dtype if dtype is None else dtype
        name = f"w{len(self._weights)}"
        content = np.ones(shape, _NUMPY[kind]).tobytes()
        self._weights.append(helper.make_tensor(name, kind, shape, content, raw=True))
        return name

    def integers(self, *values: int, dtype: int = INT64) -> str:
        """A constant list of integers."""
        name = f"w{len(self._weights)}"
        self._weights.append(helper.make_tensor(name, dtype, [len(values)], values))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, fused: bool = False, **attributes: Any) -> str:
        """A node; its first output is returned, the others are this name with their number."""
        name = f"n{len(self._nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        domain = _FUSED if fused else ""
        self._nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return name

    def save(self, path: Path, opset: int = OPSET) -> Path:
        """Write the graph."""
        graph = helper.make_graph(self._nodes, "graph", self._inputs, self._outputs, self._weights)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(_FUSED, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


def packed_encoder(path: Path, layers: int = 2, heads: int = 4, size: int = 32) -> Path:
    """A packed BERT in float16 with mean pooling."""
    w = Writer(FLOAT16)
    hidden, inner = heads * size, 4 * heads * size
    ids, positions = w.take("input_ids", ["t"]), w.take("position_ids", ["t"])
    starts, index = w.take("starts", ["b1"]), w.take("token_index", ["b", "s"])
    means = w.take("mean_weights", ["b", 1, "s"], FLOAT32)

    def norm(value: str, residual: str, *bias: str) -> str:
        return w.add(
            "SkipLayerNormalization",
            value,
            residual,
            w.weight(hidden),
            w.weight(hidden),
            *bias,
            fused=True,
            epsilon=1e-12,
        )

    x = norm(w.add("Gather", w.weight(50, hidden), ids), w.add("Gather", w.weight(64, hidden), positions))
    for _ in range(layers):
        query = w.add("Gemm", x, w.weight(hidden, hidden), w.weight(hidden))
        key, value = (w.add("MatMul", x, w.weight(hidden, hidden)) for _ in range(2))
        attention = w.add("PackedMultiHeadAttention", query, key, value, "", index, starts, fused=True, num_heads=heads)
        x = norm(w.add("MatMul", attention, w.weight(hidden, hidden)), x, w.weight(hidden))
        raised = w.add("BiasGelu", w.add("MatMul", x, w.weight(hidden, inner)), w.weight(inner), fused=True)
        x = norm(w.add("MatMul", raised, w.weight(inner, hidden)), x, w.weight(hidden))
    rows = w.add("Cast", w.add("Gather", x, index), to=FLOAT32)
    pooled = w.add("Squeeze", w.add("MatMul", means, rows), w.integers(1))
    w.give(w.add("LpNormalization", pooled, axis=-1, p=2), ["b", hidden], FLOAT32)
    return w.save(path)


def packed_attention(path: Path, *, has_bias: bool = False, heads: int = 4, size: int = 32) -> Path:
    """Packed attention alone, of one linear layer for queries, keys and values, or of separate ones with a bias."""
    w = Writer(FLOAT16)
    hidden = heads * size
    x = w.add("Gather", w.weight(50, hidden), w.take("input_ids", ["t"]))
    index, starts = w.take("token_index", ["b", "s"]), w.take("starts", ["b1"])
    if has_bias:
        places = w.take("offsets", ["s"])
        row, column = (w.add("Unsqueeze", places, w.integers(axis)) for axis in (0, 1))
        distances = w.add("Cast", w.add("Sub", row, column), to=FLOAT16)
        inputs = [x, x, x, "", index, starts, w.add("Unsqueeze", distances, w.integers(0, 1))]
    else:
        projected = w.add("MatMul", x, w.weight(hidden, 3 * hidden))
        by_head = w.add("Reshape", projected, w.integers(0, heads, 3, size))
        inputs = [by_head, "", "", w.weight(3 * hidden), index, starts]
    w.give(w.add("PackedMultiHeadAttention", *inputs, fused=True, num_heads=heads), None, FLOAT16)
    return w.save(path)


def packed_decoder(path: Path, dtype: int, layers: int = 2, heads: int = 4, groups: int = 2, size: int = 64) -> Path:
    """A packed Qwen3: grouped heads, norms of queries and keys and rotary positions in the attention; last token."""
    w = Writer(dtype)
    hidden, inner = heads * size, 3 * heads * size
    ids, starts, past = w.take("input_ids", ["t"]), w.take("starts", ["b1"]), w.take("past_lengths", ["b"])
    blocks, longest, last = w.take("block_table", ["b", "m"]), w.take("longest", [2]), w.take("last_rows", ["b"])
    keys, values = (w.take(f"{name}_scratch", ["blocks", 256, groups, size], dtype) for name in ("key", "value"))
    cos, sin = w.weight(64, size // 2), w.weight(64, size // 2)

    def norm(value: str, residual: str) -> tuple[str, str]:
        name = w.add(
            "SkipSimplifiedLayerNormalization", value, residual, w.weight(hidden), outputs=4, fused=True, epsilon=1e-6
        )
        return name, f"{name}.3"

    total = w.add("Gather", w.weight(50, hidden), ids)
    x = w.add("SimplifiedLayerNormalization", total, w.weight(hidden), epsilon=1e-6)
    for _ in range(layers):
        projected = w.add("MatMul", x, w.weight(hidden, (heads + 2 * groups) * size))
        attention = w.add(
            "PagedAttention",
            *(projected, "", "", keys, values, starts, past, blocks, cos, sin, "", ""),
            *(w.weight(size), w.weight(size), "", "", longest),
            fused=True,
            num_heads=heads,
            kv_num_heads=groups,
            do_rotary=1,
            qk_norm_epsilon=1e-6,
        )
        x, total = norm(w.add("MatMul", attention, w.weight(hidden, hidden)), total)
        gate, up = (w.add("MatMul", x, w.weight(hidden, inner)) for _ in range(2))
        gated = w.add("Mul", w.add("QuickGelu", gate, fused=True, alpha=1.0), up)
        x, total = norm(w.add("MatMul", gated, w.weight(inner, hidden)), total)
    pooled = w.add("Cast", w.add("Gather", x, last), to=FLOAT32)
    w.give(w.add("LpNormalization", pooled, axis=-1, p=2), ["b", hidden], FLOAT32)
    return w.save(path)


def shape_arithmetic(path: Path) -> Path:
    """A vector that is expanded to a size read off the input: the size is computed on the CPU."""
    w = Writer(FLOAT32)
    size = w.add("Gather", w.add("Shape", w.take("x", ["b", "s"], FLOAT32)), w.integers(1))
    shape = w.add("Concat", size, w.integers(4), axis=0)
    w.give(w.add("Expand", w.weight(1, 4), shape), None, FLOAT32)
    return w.save(path)


def int8_matmul(path: Path) -> Path:
    """A quantized linear layer, which has no CUDA kernels, between two operators that have."""
    w = Writer(FLOAT32)
    w.take("x", ["b", 4], FLOAT32)
    quantized = w.add("DynamicQuantizeLinear", w.add("Relu", "x"), outputs=3)
    weights = w.integers(1, 1, 1, 1, dtype=TensorProto.INT8)
    product = w.add("MatMulInteger", quantized, w.add("Reshape", weights, w.integers(4, 1)), f"{quantized}.2")
    w.give(w.add("Exp", w.add("Cast", product, to=FLOAT32)), None, FLOAT32)
    return w.save(path)


def convolution(path: Path) -> Path:
    """A convolution: it is placed on CUDA, but its kernel is that of cuDNN."""
    w = Writer(FLOAT16)
    w.take("x", ["b", 4, "s"], FLOAT16)
    w.give(w.add("Conv", "x", w.weight(4, 4, 1)), None, FLOAT16)
    return w.save(path)


def packing(path: Path) -> Path:
    """Packing inside the graph: the number of tokens is read back to the host, to allocate the output."""
    w = Writer(FLOAT16)
    padded, lengths = w.take("x", ["b", "s", 8], FLOAT16), w.take("lengths", ["b"])
    packed = w.add("RemovePadding", padded, lengths, outputs=4, fused=True)
    w.give(packed, ["t", 8], FLOAT16)
    return w.save(path)

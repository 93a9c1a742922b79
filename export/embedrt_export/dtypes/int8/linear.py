"""Quantization of linear layers: find them in a graph, observe their inputs, and replace them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from embedrt.engine import Batch
from embedrt.engine.devices import find_device
from embedrt.engine.session import SessionEngine
from embedrt.inputs.padding import pad
from embedrt.run.planning import plan
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_tokens
from embedrt.verify.parity import Item
from embedrt_export.dtypes.int8.absorb import absorb, find_sources
from embedrt_export.dtypes.int8.activations import Floats, Scheme
from embedrt_export.dtypes.int8.layer import Constant, LinearLayer, QuantizedLayer
from embedrt_export.graph.builder import names_read, needed
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.opsets import MICROSOFT

# Rows and columns of the smallest weight matrix to quantize.
_SMALLEST = 64
# Tokens in one batch while activations are observed.
_BUDGET = 2048


def find_layers(model: onnx.ModelProto) -> list[LinearLayer]:
    """Find Gemm nodes with a large constant weight; `observe` drops those that do not run for every token."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or attributes != {"transB": 1}:
            continue
        bias = node.input[2] if len(node.input) == 3 else None
        shape = shapes.get(node.input[1], ())
        if min(shape, default=0) >= _SMALLEST and (bias is None or shapes.get(bias) == shape[:1]):
            found.append(LinearLayer(node.name, node.input[0], node.input[1], bias, node.output[0]))
    return found


def observe(
    model: onnx.ModelProto, path: Path, runner: Runner, texts: Sequence[Item], values: Sequence[str]
) -> dict[str, Floats]:
    """Run a graph over texts and return some of its values.

    Args:
        model: The graph.
        path: A temporary file beside the data files; it is deleted.
        runner: The route, for its tokenizer.
        texts: The texts.
        values: Names of values.

    Returns:
        float32 `[tokens, channels]` by name, without padding. Values without a row for every token are left out.
    """
    part = onnx.ModelProto()
    part.CopyFrom(model)
    nodes = needed(list(model.graph.node), values)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(nodes)
    part.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in values)
    used = {name for node in nodes for name in names_read(node)}
    tensors = [tensor for tensor in part.graph.initializer if tensor.name in used]
    del part.graph.initializer[:]
    part.graph.initializer.extend(tensors)
    onnx.save_model(part, path)
    try:
        engine = SessionEngine(path, find_device("cpu"))
        tokens = graph_tokens(runner, texts)
        rows: dict[str, list[Floats]] = {name: [] for name in values}
        for planned in plan(tokens.lengths, token_budget=_BUDGET, max_rows=_BUDGET):
            batch = Batch(pad(tokens, planned.rows, planned.length, runner.route.tokenization), alone=True)
            real = batch.feeds["attention_mask"].reshape(-1) == 1
            for name, value in engine.run(batch, values).items():
                if value.ndim == 2 and len(value) == len(real):
                    rows[name].append(value[real])
    finally:
        path.unlink()
    return {name: np.concatenate(parts) for name, parts in rows.items() if parts}


@dataclass(frozen=True)
class Matmul:
    """One quantized matmul with its bias, by the names of its values.

    Attributes:
        name: Name of its node.
        x: Levels of the activation, their scale and their zero point.
        weight: Levels of the weight, and the scale of each column.
        bias: The bias `[outputs]`.
        y: The result.
    """

    name: str
    x: tuple[str, str, str]
    weight: tuple[str, str]
    bias: str
    y: str


AddMatmul = Callable[[Matmul], list[onnx.NodeProto]]
"""Makes the nodes of a quantized matmul."""


def fused_matmul(matmul: Matmul) -> list[onnx.NodeProto]:
    """Multiply, scale and add the bias in one pass, by an operator of ONNX Runtime."""
    (levels, scale, zero), (weight, scales) = matmul.x, matmul.weight
    inputs = [levels, weight, scale, scales, zero, "", matmul.bias]
    return [helper.make_node("MatMulIntegerToFloat", inputs, [matmul.y], name=matmul.name, domain=MICROSOFT)]


def portable_matmul(matmul: Matmul) -> list[onnx.NodeProto]:
    """Dequantize both sides and multiply in float32, in standard operators.

    Engines with int8 kernels, such as ONNX Runtime, make one integer matmul of these nodes.
    """
    at = matmul.name
    return [
        # A node for every reader of the levels, as engines match the nodes around one matmul.
        helper.make_node("DequantizeLinear", matmul.x, [f"{at}.x"], name=f"{at}.x"),
        helper.make_node("DequantizeLinear", matmul.weight, [f"{at}.weight"], name=f"{at}.weight", axis=1),
        helper.make_node("MatMul", [f"{at}.x", f"{at}.weight"], [f"{at}.product"], name=at),
        # Not `Add` of the bias: ONNX Runtime would make a `Gemm` of both first, for which it has no int8 kernel.
        helper.make_node("Neg", [matmul.bias], [f"{at}.minus"], name=f"{at}.minus"),
        helper.make_node("Sub", [f"{at}.product", f"{at}.minus"], [matmul.y], name=f"{at}.biased"),
    ]


def replace_layers(
    model: onnx.ModelProto,
    found: Iterable[tuple[LinearLayer, QuantizedLayer]],
    data: DataFile,
    read: Callable[[str], Floats],
    add_matmul: AddMatmul = fused_matmul,
) -> None:
    """Replace linear layers of a graph by quantized ones.

    Layers with the same input share its quantized values.

    Args:
        model: The graph, which is changed.
        found: The layers with their replacements.
        data: File for the quantized weights.
        read: Reads the values of a tensor.
        add_matmul: Makes the nodes of the matmuls.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, TensorProto] = {}
    inputs: dict[str, tuple[str, str, str]] = {}

    def constant(name: str, values: Any) -> str:
        tensors[name] = data.tensor(name, np.asarray(values, order="C"))
        return name

    layers = {layer.node: (layer, quantized) for layer, quantized in found}
    absorbed = absorb(model, layers, find_sources(model, find_layers(model)), read, constant)
    for node in absorbed.nodes:
        if node.name not in absorbed.layers:
            nodes.append(node)
            continue
        layer, quantized = absorbed.layers[node.name]
        if layer.x not in inputs:
            added, inputs[layer.x] = _quantized_input(layer.x, quantized.scheme, constant, absorbed.names.get(layer.x))
            nodes += added
        nodes += _quantized_layer(layer, quantized, inputs[layer.x], constant, add_matmul)
    used = {name for node in nodes for name in names_read(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *tensors.values()])
    known = {one.domain for one in model.opset_import}
    if MICROSOFT in {node.domain for node in nodes} - known:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _quantized_input(
    x: str, scheme: Scheme, constant: Constant, smoothed: str | None
) -> tuple[list[onnx.NodeProto], tuple[str, str, str]]:
    """Nodes that quantize an activation, and the names of levels, scale and zero point.

    Args:
        x: The activation.
        scheme: Its scheme.
        constant: Adds a tensor to the graph.
        smoothed: The activation centered and smoothed, where the graph has it.
    """
    nodes, source = [], x
    if smoothed is not None:
        source = smoothed
    else:
        if scheme.center is not None:
            added = [source, constant(f"{x}.center", scheme.center)]
            source = f"{x}.centered"
            nodes.append(helper.make_node("Sub", added, [source], name=source))
        if scheme.smoothing is not None:
            added = [source, constant(f"{x}.divisor", (1 / scheme.smoothing).astype(np.float32))]
            source = f"{x}.smooth"
            nodes.append(helper.make_node("Mul", added, [source], name=source))
    levels = f"{x}.levels"
    scale, zero = constant(f"{x}.scale", scheme.scale), constant(f"{x}.zero", scheme.zero_point)
    nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [levels], name=levels))
    return nodes, (levels, scale, zero)


def _quantized_layer(
    layer: LinearLayer,
    quantized: QuantizedLayer,
    x: tuple[str, str, str],
    constant: Constant,
    add_matmul: AddMatmul,
) -> list[onnx.NodeProto]:
    at = layer.node
    weight = (constant(f"{at}.levels", quantized.levels), constant(f"{at}.scales", quantized.scales))
    bias = constant(f"{at}.bias", quantized.bias)
    outliers = quantized.scheme.outliers
    inside = f"{at}.inside" if len(outliers) else layer.y
    nodes = add_matmul(Matmul(at, x, weight, bias, inside))
    if len(outliers):
        low, high = (np.float32(edge) for edge in (quantized.scheme.low, quantized.scheme.high))
        if (outliers == np.arange(len(outliers))).all():  # 20 times as fast as Gather
            ends = [constant(f"{at}.first_{end}", np.array([end])) for end in (0, len(outliers), 1)]
            some = helper.make_node("Slice", [layer.x, *ends], [f"{at}.some"])
        else:
            some = helper.make_node("Gather", [layer.x, constant(f"{at}.exceeding", outliers)], [f"{at}.some"], axis=1)
        steps = (
            some,
            helper.make_node(
                "Clip", [f"{at}.some", constant(f"{at}.low", low), constant(f"{at}.high", high)], [f"{at}.cut"]
            ),
            helper.make_node("Sub", [f"{at}.some", f"{at}.cut"], [f"{at}.excess"]),
        )
        for node in steps:
            node.name = node.output[0]
            nodes.append(node)
        added = [f"{at}.excess", constant(f"{at}.exceeding_weight", quantized.outliers), inside]
        nodes.append(helper.make_node("Gemm", added, [layer.y], name=f"{at}.sum"))
    return nodes

"""Quantization of embedding tables, with a scale for each row: they take most of the memory of a small model."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embedrt_export.dtypes.int8.activations import Floats
from embedrt_export.dtypes.int8.levels import LARGEST_WEIGHT
from embedrt_export.graph.builder import FLOAT, names_read
from embedrt_export.graph.data_file import DataFile

_SMALLEST_BYTES = 1 << 20  # smaller tables do not justify the extra nodes


def quantize_embeddings(model: onnx.ModelProto, read: Callable[[str], Floats], data: DataFile) -> int:
    """Quantize the large tables of which a graph only gathers rows.

    Args:
        model: The graph, which is changed.
        read: Reads the values of a tensor.
        data: File for the quantized tables.

    Returns:
        Number of quantized tables.
    """
    tables = _find_tables(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.input[:1] and node.input[0] in tables:
            nodes += _dequantized(node)
        else:
            nodes.append(node)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in tables]
    for name in tables:
        levels, scales = _quantized(read(name))
        kept += [data.tensor(f"{name}.levels", levels), data.tensor(f"{name}.scales", scales)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return len(tables)


def _find_tables(model: onnx.ModelProto) -> set[str]:
    """Names of the tables to quantize."""
    found = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and 4 * tensor.dims[0] * tensor.dims[1] >= _SMALLEST_BYTES
    }
    for node in model.graph.node:
        gathers = node.op_type == "Gather" and all(helper.get_attribute_value(one) == 0 for one in node.attribute)
        found -= set(node.input[1:]) if gathers else names_read(node)
    return found & {node.input[0] for node in model.graph.node if node.op_type == "Gather"}


def _quantized(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Levels `[rows, width]` and scales `[rows, 1]` of a table."""
    largest = np.abs(table).max(axis=1, keepdims=True).astype(np.float64)
    scales = np.where(largest == 0, 1.0, largest / LARGEST_WEIGHT).astype(np.float32)
    return np.round(table / scales).astype(np.int8), scales


def _dequantized(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Gather rows of levels and scales, and multiply them."""
    (table, ids), y = node.input, node.output[0]
    return [
        helper.make_node("Gather", [f"{table}.levels", ids], [f"{y}.levels"], name=f"{y}.levels"),
        helper.make_node("Cast", [f"{y}.levels"], [f"{y}.whole"], name=f"{y}.whole", to=FLOAT),
        helper.make_node("Gather", [f"{table}.scales", ids], [f"{y}.scales"], name=f"{y}.scales"),
        helper.make_node("Mul", [f"{y}.whole", f"{y}.scales"], [y], name=node.name),
    ]

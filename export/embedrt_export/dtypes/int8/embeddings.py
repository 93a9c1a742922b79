"""Tables of embeddings in 8 bits, a scale for every row: they are most of the memory that a small model takes."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embedrt_export.dtypes.int8.activations import Floats, column_scales
from embedrt_export.graph.builder import FLOAT, names_read
from embedrt_export.graph.data_file import DataFile

_SMALLEST_BYTES = 1 << 20  # smaller ones are not worth two nodes more


def replace_tables(model: onnx.ModelProto, read: Callable[[str], Floats], data: DataFile) -> int:
    """Puts the large tables of which the graph only gathers rows into 8 bits.

    Args:
        model: The graph, which is changed.
        read: Gives the values of a tensor.
        data: Takes the new tables.

    Returns:
        How many tables there were.
    """
    tables = _tables(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.input[:1] and node.input[0] in tables:
            nodes += _gathered(node)
        else:
            nodes.append(node)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in tables]
    for name in tables:
        levels, scales = _levels(read(name))
        kept += [data.tensor(f"{name}.levels", levels), data.tensor(f"{name}.scales", scales)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return len(tables)


def _tables(model: onnx.ModelProto) -> set[str]:
    """The names of the tables."""
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


def _levels(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Levels `[rows, width]` and what one of a row is worth, `[rows, 1]`."""
    scales = column_scales(table.T)[:, None].astype(np.float32)
    return np.round(table / scales).astype(np.int8), scales


def _gathered(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    (table, ids), y = node.input, node.output[0]
    return [
        helper.make_node("Gather", [f"{table}.levels", ids], [f"{y}.levels"], name=f"{y}.levels"),
        helper.make_node("Cast", [f"{y}.levels"], [f"{y}.whole"], name=f"{y}.whole", to=FLOAT),
        helper.make_node("Gather", [f"{table}.scales", ids], [f"{y}.scales"], name=f"{y}.scales"),
        helper.make_node("Mul", [f"{y}.whole", f"{y}.scales"], [y], name=node.name),
    ]

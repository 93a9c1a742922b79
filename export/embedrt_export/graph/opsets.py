"""Conversion of ONNX graphs to a later opset, by onnx's version converter."""

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto, defs, helper, version_converter

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import subgraphs

OLDEST = 11
STANDARD = {"", "ai.onnx"}
"""The two names of the domain of standard operators."""
MICROSOFT = "com.microsoft"
"""The domain of operators that are in every build of ONNX Runtime."""

_INLINE_BYTES = 1024  # the converter copies a model several times, so it gets larger tensors without their values


def upgrade(model: onnx.ModelProto, target: int, where: str) -> onnx.GraphProto:
    """Convert the standard operators of a graph and of its inner graphs; other domains stay as they are.

    Args:
        model: A model of opset `OLDEST` or later. It is left as it is.
        target: The opset to convert to.
        where: Name of the file in messages.

    Returns:
        Nodes and tensors of the converted graph; large tensors that it shares with `model` lack their values.

    Raises:
        UnsupportedModelError: An operator is unknown, or cannot be converted; the message names it.
    """
    version = next(entry.version for entry in model.opset_import if entry.domain in STANDARD)
    nodes = [node for node in all_nodes(model.graph.node) if node.domain in STANDARD]
    for node in nodes:
        if _since(node.op_type, version) is None:
            raise UnsupportedModelError(f"{where}: ONNX has no operator {node.op_type!r} in opset {version}")
        if node.op_type == "BatchNormalization" and len(node.output) > 1:
            raise UnsupportedModelError(f"{where}: BatchNormalization with {len(node.output)} outputs is for training")
    changed = {node.op_type for node in nodes if _since(node.op_type, version) != _since(node.op_type, target)}
    if not changed:
        return model.graph
    message = (
        f"{where}: the operators {', '.join(sorted(changed))} changed between opset {version} and {target} and cannot "
        f"be converted; export the ONNX file again with opset {target}"
    )
    if version > target:
        raise UnsupportedModelError(message)
    try:
        return version_converter.convert_version(_without_values(model), target).graph
    except Exception as error:  # a C++ library, whose exceptions have no common base
        raise UnsupportedModelError(f"{message} ({error})") from error


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of its inner graphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def _since(op_type: str, opset: int) -> int | None:
    """Opset in which an operator got the definition that it has in `opset`."""
    try:
        return int(defs.get_schema(op_type, opset, "").since_version)
    except defs.SchemaError:
        return None


def _without_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, except for the values of large tensors."""
    graph = helper.make_graph(model.graph.node, model.graph.name or "graph", model.graph.input, model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _INLINE_BYTES:
            graph.initializer.append(tensor)
            continue
        stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="left out")
    imported = {entry.domain for entry in model.opset_import}
    others = {node.domain for node in all_nodes(graph.node) if node.domain not in {*STANDARD, *imported}}
    opsets = [*model.opset_import, *(helper.make_opsetid(domain, 1) for domain in sorted(others))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)

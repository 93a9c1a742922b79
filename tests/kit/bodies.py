"""ONNX bodies as repos ship them, made of the graphs of our own bundles, and ways to change them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedrt_export.graph.builder import names_read, needed

TOKENS = "last_hidden_state"


def read_graph(bundle: Path) -> onnx.ModelProto:
    """The graph of a bundle with its weights inside and without the output `last_hidden_state`, a name for bodies."""
    model = onnx.load(bundle / "onnx" / "model.onnx")
    keep(model, list(model.graph.node), [output for output in model.graph.output if output.name != TOKENS])
    return model


def body_of(bundle: Path, tokens: str = TOKENS) -> onnx.ModelProto:
    """What computes the token embeddings in a bundle, as a model of its own."""
    model = read_graph(bundle)
    nodes = list(model.graph.node)
    rename(nodes, "token_embeddings", tokens)
    keep(model, nodes, [value_info(tokens, ["batch", "sequence", 32])])
    return model


def keep(model: onnx.ModelProto, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto]) -> None:
    """Makes these the nodes and outputs of a model, without what is not needed for them."""
    nodes = needed(nodes, [output.name for output in outputs])
    used = {name for node in nodes for name in names_read(node)}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for field, content in (("node", nodes), ("output", outputs), ("initializer", tensors)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(content)


def rename(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    """Gives a value another name."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def value_info(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def add_input(model: onnx.ModelProto, name: str) -> None:
    model.graph.input.append(value_info(name, ["batch", "sequence"], TensorProto.INT64))


def after_tokens(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: Any) -> None:
    """Adds nodes that make the token embeddings of what they were so far, under the name "plain"."""
    rename(list(model.graph.node), TOKENS, "plain")
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())


def write_body(
    source: Path, folder: Path, model: onnx.ModelProto, name: str = "onnx/model.onnx", **options: Any
) -> Path:
    """A copy of a model folder that has this body; options go to `onnx.save_model`."""
    shutil.copytree(source, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    onnx.save_model(model, folder / name, **options)
    return folder

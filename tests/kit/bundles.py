"""Copies of bundles, and ways to change them: carelessly, or consistently with a manifest that fits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer

from embedrt.bundle.check import sha256_of
from embedrt.bundle.manifest import MANIFEST, Manifest
from embedrt.bundle.reports import ParityReport

Json = dict[str, Any]


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle at `folder`, to damage."""
    shutil.copytree(bundle, folder)
    return folder


def read_raw(folder: Path) -> Json:
    """The manifest as plain JSON."""
    raw: Json = json.loads((folder / MANIFEST).read_bytes())
    return raw


def write_raw(folder: Path, raw: Any) -> None:
    """Writes any JSON as the manifest."""
    (folder / MANIFEST).write_text(json.dumps(raw), encoding="utf-8")


def change(folder: Path, edit: Callable[[Json], Any]) -> None:
    """Lets `edit` change the manifest's JSON in place."""
    raw = read_raw(folder)
    edit(raw)
    write_raw(folder, raw)


def parity(manifest: Manifest, route: str = "default") -> ParityReport:
    """The proof of the graph that a CPU runs in float32."""
    proof = manifest.routes[route].variants[0].proof
    assert isinstance(proof, ParityReport)
    return proof


def rehash(folder: Path) -> None:
    """Makes the manifest list the files as they are now."""
    raw = read_raw(folder)
    for name, record in raw["files"].items():
        record.update(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
    write_raw(folder, raw)


def edit_graph(folder: Path, edit: Callable[[onnx.GraphProto], Any]) -> None:
    """Lets `edit` change the graph in all of its files in place, and makes the manifest fit."""
    for name in {variant["file"] for variant in read_raw(folder)["routes"]["default"]["variants"]}:
        model = onnx.load(folder / name, load_external_data=False)
        edit(model.graph)
        (folder / name).write_bytes(model.SerializeToString())
    rehash(folder)


def replace_output(graph: onnx.GraphProto, *nodes: onnx.NodeProto, dim: int | None = None) -> None:
    """Puts nodes before the output "sentence_embedding"; they read what it was as "plain"."""
    for node in graph.node:
        node.output[:] = ["plain" if name == "sentence_embedding" else name for name in node.output]
    graph.node.extend(nodes)
    if dim is not None:
        (output,) = (output for output in graph.output if output.name == "sentence_embedding")
        output.type.tensor_type.shape.dim[1].dim_value = dim


def poison(folder: Path, token: str, value: float) -> None:
    """Makes the model return `value` in the middle of the vector of every text that has this token."""
    token_id = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token)
    assert token_id is not None
    dim = read_raw(folder)["routes"]["default"]["outputs"]["sentence_embedding"]["width"]

    def edit(graph: onnx.GraphProto) -> None:
        bad = np.zeros((1, dim), bool)
        bad[0, dim // 2] = True
        constants = {"token": np.int64(token_id), "value": np.float32(value), "axes": np.array([1]), "where": bad}
        graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(a), f"poison_{n}") for n, a in constants.items()
        )
        replace_output(
            graph,
            onnx.helper.make_node("Equal", ["input_ids", "poison_token"], ["poison_hits"]),
            onnx.helper.make_node("Cast", ["poison_hits"], ["poison_counts"], to=onnx.TensorProto.INT64),
            onnx.helper.make_node("ReduceSum", ["poison_counts", "poison_axes"], ["poison_rows"], keepdims=1),
            onnx.helper.make_node("Cast", ["poison_rows"], ["poison_any"], to=onnx.TensorProto.BOOL),
            onnx.helper.make_node("And", ["poison_any", "poison_where"], ["poison_cells"]),
            onnx.helper.make_node("Where", ["poison_cells", "poison_value", "plain"], ["sentence_embedding"]),
        )

    edit_graph(folder, edit)

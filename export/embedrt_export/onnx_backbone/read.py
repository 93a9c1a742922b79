"""The ONNX file of a repo, found, read and checked: its backbone, which computes token embeddings.

The file is untrusted: its sizes and locations are checked before they are used.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt.bundle.strict_json import is_lfs_pointer
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.graph.builder import subgraphs
from embedrt_export.graph.opsets import OLDEST, STANDARD, all_nodes

CANDIDATES = ("onnx/model.onnx", "model.onnx")
"""Paths of the float32 backbone in a repo. Others, such as `onnx/model_O3.onnx`, are taken when they are named."""

_MAX_BYTES = 2**31 - 1  # of any protobuf message
_CONTRIBUTED = "com.microsoft"  # operators that every build of ONNX Runtime brings
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_SENTENCE_OUTPUT = "sentence_embedding"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_SIZES = {"Shape", "Size"}  # operators that look at no content
_SAME_IDS = {"Cast", "Identity", "Reshape"}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE}
_INTEGERS = {TensorProto.INT32, TensorProto.INT64}
_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_TYPES = set(TensorProto.DataType.values())
_PLAIN = _FLOATS | _INTEGERS | {TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.UINT8}
_PLAIN |= {TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}


@dataclass(frozen=True)
class Backbone:
    """A backbone with known inputs and outputs.

    Attributes:
        path: The ONNX file.
        name: Its name in messages.
        folder: The folder that all its files must lie in.
        model: What is in it. The content of tensors in other files is not.
        opset: Its opset of standard operators.
        inputs: The types of its inputs by name, all `[batch, sequence]`.
        tokens: The value with the token embeddings `[batch, sequence, width]`.
        sentence: An output `[batch, ...]` with vectors that it pools by itself, or None.
        width: Width of a token embedding, or None if the file does not tell.
        rows: Rows of the table of word embeddings, or None likewise.
    """

    path: Path
    name: str
    folder: Path
    model: onnx.ModelProto
    opset: int
    inputs: dict[str, int]
    tokens: str
    sentence: str | None
    width: int | None
    rows: int | None


def find_backbone(files: Collection[str]) -> str | None:
    """The backbone among the files of a repo, as paths with forward slashes."""
    return next((name for name in CANDIDATES if name in files), None)


def read_backbone(folder: Path, name: str) -> Backbone:
    """Read and checks a backbone.

    Args:
        folder: The folder that all its files must lie in.
        name: The ONNX file, relative to the folder, with forward slashes.

    Raises:
        UnsupportedModelError: It is not the float32 model, or something in it is not supported; the message names it.
        ExportError: It is damaged, or a part of it lies elsewhere.
    """
    path = plain_file(folder, folder, name, name)
    model = _parse(path, name)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:  # a C++ library, which raises what it likes
            raise ExportError(f"{name}: its functions cannot be expanded: {error}") from error
    opset = _opset(model, name)
    for node in all_nodes(model.graph.node):
        _check_node(node, name)
    for tensor in model.graph.initializer:
        _check_tensor(tensor, name)
    inputs = _inputs(model.graph, name)
    tokens, sentence, width = _outputs(model, name)
    return Backbone(path, name, folder, model, opset, inputs, tokens, sentence, width, _embedding_rows(model.graph))


def data_files(backbone: Backbone) -> set[str]:
    """Files with the weights of an ONNX file, relative to the folder; they need not be there yet."""
    tensors = backbone.model.graph.initializer
    locations = {e.value for tensor in tensors for e in tensor.external_data if e.key == "location"}
    return {(PurePosixPath(backbone.name).parent / location).as_posix() for location in locations}


def plain_file(folder: Path, start: Path, location: str, where: str) -> Path:
    """A file that a model names, which must be one of its own.

    Args:
        folder: The model's folder.
        start: The folder that the location is relative to.
        location: A path with forward slashes.
        where: How messages name the file that has the location.

    Raises:
        ExportError: It leads out of the folder, also by a link, or there is no such file.
    """
    parts, windows = PurePosixPath(location).parts, PureWindowsPath(location)
    if not parts or ".." in parts or parts[0] == "/" or windows.drive or windows.root or "\\" in location:
        raise ExportError(f"{where}: {location!r} is not a plain path inside the model folder")
    path, root = start.joinpath(*parts), folder.resolve()
    # The hub's cache links from its snapshots to the folder `blobs` beside them.
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ExportError(f"{where}: {location} is missing in the model folder; get the model again") from error
    if not any(resolved.is_relative_to(allowed) for allowed in roots):
        raise ExportError(f"{where}: {location} is a link that leads out of the model folder")
    if not resolved.is_file():
        raise ExportError(f"{where}: {location} is not a file")
    return path


def tensor_values(backbone: Backbone, tensor: TensorProto) -> NDArray[Any]:
    """The content of a tensor; from another file it is mapped, not read.

    Raises:
        ExportError: There is less of it, or more, than its shape says.
    """
    where = f"{backbone.name}: tensor {tensor.name!r}"
    if tensor.data_location != TensorProto.EXTERNAL:
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ExportError(f"{where}: {error}") from error
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = plain_file(backbone.folder, backbone.path.parent, entries.get("location", ""), where)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
    shape = tuple(tensor.dims)
    size = math.prod(shape) * dtype.itemsize
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", size))
    except ValueError as error:
        raise ExportError(f"{where}: offset or length is no number") from error
    if length != size:
        raise ExportError(f"{where}: {length} bytes for the shape {list(shape)}, which takes {size}")
    if offset < 0 or offset + size > path.stat().st_size:
        remedy = "it is a Git LFS pointer, run `git lfs pull`" if is_lfs_pointer(path) else "get the model again"
        raise ExportError(f"{where}: bytes {offset} to {offset + size} are not in {path.name}; {remedy}")
    if not size:
        return np.empty(shape, dtype)
    mapped: NDArray[Any] = np.memmap(path, np.uint8, "r", offset, (size,))
    return np.frombuffer(mapped, dtype).reshape(shape)


def _parse(path: Path, name: str) -> onnx.ModelProto:
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ExportError(f"{name}: {size} bytes, more than an ONNX file may have; its weights belong beside it")
    if is_lfs_pointer(path):
        raise ExportError(f"{name}: a Git LFS pointer instead of the file; run `git lfs pull`")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{name}: not a whole ONNX file: {error}; get the model again") from error
    if not model.graph.node:
        raise ExportError(f"{name}: not an ONNX file, it has no graph; get the model again")
    return model


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        found = ", ".join(map(str, versions)) or "none"
        raise UnsupportedModelError(
            f"{name}: opset {found} of ONNX; supported: one of {OLDEST} to {newest}; export the ONNX file again"
        )
    return int(versions[0])


def _check_node(node: onnx.NodeProto, name: str) -> None:
    if node.domain not in {*STANDARD, _CONTRIBUTED}:
        raise UnsupportedModelError(
            f"{name}: the operator {node.op_type} is of {node.domain!r}; supported: those of ONNX and of "
            f"{_CONTRIBUTED}; libraries with operators of their own are not loaded"
        )
    if any(part in node.op_type for part in ("Quantize", "Integer", "NBits", "QAttention", "QGemm", "QLinear", "Bnb4")):
        raise _not_float32(f"{name}: it computes with the operator {node.op_type}")
    if node.op_type == "Cast" and any(a.name == "to" and a.i in _HALVES for a in node.attribute):
        raise _not_float32(f"{name}: it computes in half precision")
    for attribute in node.attribute:
        for tensor in (attribute.t, *attribute.tensors):
            if tensor.data_location == TensorProto.EXTERNAL:
                raise UnsupportedModelError(f"{name}: node {node.name!r} has its constant in another file")
    for graph in subgraphs(node):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise UnsupportedModelError(f"{name}: tensor {tensor.name!r} of an inner graph is in another file")


def _check_tensor(tensor: TensorProto, name: str) -> None:
    if tensor.data_type not in _PLAIN:
        known = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in _TYPES else tensor.data_type
        raise _not_float32(f"{name}: tensor {tensor.name!r} is stored as {known}")
    if any(dim < 0 for dim in tensor.dims):
        raise ExportError(f"{name}: tensor {tensor.name!r} has the shape {list(tensor.dims)}")


def _not_float32(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{what}, so it is not the float32 model; name the file that is (`--onnx-file`)")


def _inputs(graph: onnx.GraphProto, name: str) -> dict[str, int]:
    """The types of the inputs by name. Files of old list every tensor among them."""
    tensors = {tensor.name for tensor in graph.initializer}
    inputs = {}
    for value in graph.input:
        if value.name in tensors:
            continue
        kind = value.type.tensor_type
        if value.name not in _INPUTS:
            raise UnsupportedModelError(f"{name}: the input {value.name!r} is unknown; known: {', '.join(_INPUTS)}")
        if kind.elem_type not in _INTEGERS:
            raise UnsupportedModelError(f"{name}: the input {value.name!r} is not of int64 or int32")
        dims = list(kind.shape.dim)
        if len(dims) != 2 or any(dim.HasField("dim_value") for dim in dims):
            shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
            raise UnsupportedModelError(
                f"{name}: the input {value.name!r} has the fixed shape {shape}; "
                "export the ONNX file again, with batch and sequence as dynamic axes"
            )
        inputs[value.name] = kind.elem_type
    for needed in _INPUTS[:2]:
        if needed not in inputs:
            raise UnsupportedModelError(f"{name}: it has no input {needed!r}; it has {', '.join(inputs) or 'none'}")
    return inputs


def _outputs(model: onnx.ModelProto, name: str) -> tuple[str, str | None, int | None]:
    """Token embeddings, vectors pooled by the backbone itself, and the width of a token embedding."""
    outputs = {value.name: value for value in model.graph.output}
    ranks: dict[int, list[str]] = {}
    for output, value in outputs.items():
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            ranks.setdefault(len(value.type.tensor_type.shape.dim), []).append(output)
    tokens = next((output for output in _TOKEN_OUTPUTS if output in ranks.get(3, ())), None)
    if tokens is None and len(ranks.get(3, ())) > 1:
        raise UnsupportedModelError(
            f"{name}: which of its outputs {', '.join(ranks[3])} has the token embeddings? "
            f"expected one named {' or '.join(_TOKEN_OUTPUTS)}, or a single one of three dimensions"
        )
    if tokens is None and ranks.get(3):
        (tokens,) = ranks[3]
    if tokens is not None:
        sentence = _SENTENCE_OUTPUT if _SENTENCE_OUTPUT in ranks.get(2, ()) else None
        return tokens, sentence, _width(outputs[tokens])
    sentence = _SENTENCE_OUTPUT if _SENTENCE_OUTPUT in ranks.get(2, ()) else None
    if sentence is None and len(ranks.get(2, ())) == 1:
        (sentence,) = ranks[2]
    if sentence is None:
        found = ", ".join(outputs) or "none"
        raise UnsupportedModelError(f"{name}: no output has token or sentence embeddings in float32; it has {found}")
    tokens, width = _tokens_before(model, sentence, name)
    return tokens, sentence, width


def _tokens_before(model: onnx.ModelProto, sentence: str, name: str) -> tuple[str, int]:
    """The token embeddings of a graph that only returns what it pools of them, and their width.

    They are the last value `[batch, sequence, width]` on the way that depends on the tokens. What is pooled of them is
    compared with what the graph returns, so a wrong guess is no wrong vector.
    """
    made = {output: node for node in model.graph.node for output in node.output if output}
    needed, waiting = set(), [sentence]
    while waiting:
        value = waiting.pop()
        if value in made and value not in needed:
            needed.add(value)
            waiting += made[value].input
    from_ids = {"input_ids"}
    for node in model.graph.node:
        if node.op_type not in _SIZES and from_ids.intersection(node.input):
            from_ids.update(node.output)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # a C++ library, which raises what it likes
        raise ExportError(f"{name}: not a sound graph: {error}") from error
    widths = {value.name: _token_width(value) for value in inferred.graph.value_info}
    found = [
        output
        for node in model.graph.node
        for output in node.output
        if output in needed and output in from_ids and widths.get(output)
    ]
    if not found:
        raise UnsupportedModelError(
            f"{name}: it returns {sentence!r} and no token embeddings, and none are found inside; "
            "export the ONNX file again with the output last_hidden_state"
        )
    return found[-1], widths[found[-1]] or 0


def _token_width(value: onnx.ValueInfoProto) -> int | None:
    """The width of a float32 value `[batch, sequence, width]`, or None if it is another."""
    kind, dims = value.type.tensor_type, value.type.tensor_type.shape.dim
    is_tokens = kind.elem_type == TensorProto.FLOAT and len(dims) == 3
    if not is_tokens or dims[0].HasField("dim_value") or dims[1].HasField("dim_value"):
        return None
    return _width(value)


def _width(value: onnx.ValueInfoProto) -> int | None:
    last = value.type.tensor_type.shape.dim[-1]
    return last.dim_value if last.dim_value > 0 else None


def _embedding_rows(graph: onnx.GraphProto) -> int | None:
    """Rows of the table from which the token ids pick."""
    tables = {tensor.name: tensor.dims for tensor in graph.initializer if len(tensor.dims) == 2}
    ids = {"input_ids"}
    for node in graph.node:
        if node.op_type in _SAME_IDS and node.input[:1] and node.input[0] in ids:
            ids.update(node.output)
        if node.op_type == "Gather" and node.input[1] in ids and node.input[0] in tables:
            return int(tables[node.input[0]][0])
        if node.op_type == "EmbedLayerNormalization" and node.input[0] in ids and node.input[2] in tables:
            return int(tables[node.input[2]][0])
    return None

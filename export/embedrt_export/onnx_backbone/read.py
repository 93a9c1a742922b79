"""Find, read and check the backbone in an ONNX file of a repo, which computes token embeddings.

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
"""Default paths of the float32 backbone in a repo; `onnx_file` chooses another, such as `onnx/model_O3.onnx`."""

_MAX_BYTES = 2**31 - 1  # limit of protobuf messages
_CONTRIBUTED = "com.microsoft"  # operators in every build of ONNX Runtime
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_SENTENCE_OUTPUT = "sentence_embedding"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_SIZES = {"Shape", "Size"}  # operators that only read the shape of their input
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
        folder: The folder that all its files must be in.
        model: The parsed file, without tensors that are stored in other files.
        opset: Opset of its standard operators.
        inputs: Types of its inputs by name, all `[batch, sequence]`.
        tokens: The value with the token embeddings `[batch, sequence, width]`.
        sentence: The output `[batch, ...]` with sentence embeddings that the backbone pools itself, or None.
        width: Width of a token embedding, or None if it is not fixed in the file.
        rows: Rows of the word embeddings, or None likewise.
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
    """Find the backbone among the files of a repo, given as paths with forward slashes."""
    return next((name for name in CANDIDATES if name in files), None)


def read_backbone(folder: Path, name: str) -> Backbone:
    """Read and check a backbone.

    Args:
        folder: The folder that all its files must be in.
        name: The ONNX file, relative to the folder, with forward slashes.

    Raises:
        UnsupportedModelError: It is not a float32 model, or something in it is not supported; the message names it.
        ExportError: It is damaged, or one of its files is outside the folder.
    """
    path = plain_file(folder, folder, name, name)
    model = _parse(path, name)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:  # a C++ library, whose exceptions have no common base
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
    """Data files of a backbone, relative to the folder; they need not be downloaded yet."""
    tensors = backbone.model.graph.initializer
    locations = {e.value for tensor in tensors for e in tensor.external_data if e.key == "location"}
    return {(PurePosixPath(backbone.name).parent / location).as_posix() for location in locations}


def plain_file(folder: Path, start: Path, location: str, where: str) -> Path:
    """Resolve a file that a model refers to, which must be inside the model folder.

    Args:
        folder: The model's folder.
        start: The folder that the location is relative to.
        location: A path with forward slashes.
        where: Name of the referring file in messages.

    Raises:
        ExportError: The path or a link leads out of the folder, or there is no such file.
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
    """Values of a tensor; those in data files are mapped, not read.

    Raises:
        ExportError: The stored size does not match the shape.
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
        raise ExportError(f"{where}: offset or length is not a number; get the model again") from error
    if length != size:
        raise ExportError(f"{where}: expected {size} bytes for the shape {list(shape)}, found {length}")
    if offset < 0 or offset + size > path.stat().st_size:
        remedy = "it is a Git LFS pointer, run `git lfs pull`" if is_lfs_pointer(path) else "get the model again"
        raise ExportError(f"{where}: bytes {offset} to {offset + size} are not in {path.name}; {remedy}")
    if not size:
        return np.empty(shape, dtype)
    mapped: NDArray[Any] = np.memmap(path, np.uint8, "r", offset, (size,))
    return np.frombuffer(mapped, dtype).reshape(shape)


def _parse(path: Path, name: str) -> onnx.ModelProto:
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ExportError(f"{name}: {size} bytes, more than an ONNX file may have; store its weights in a data file")
    if is_lfs_pointer(path):
        raise ExportError(f"{name}: a Git LFS pointer instead of the file; run `git lfs pull`")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{name}: not a complete ONNX file: {error}; get the model again") from error
    if not model.graph.node:
        raise ExportError(f"{name}: not an ONNX model: it has no graph; get the model again")
    return model


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        found = ", ".join(map(str, versions)) or "none"
        raise UnsupportedModelError(
            f"{name}: ONNX opset {found} is not supported; supported: {OLDEST} to {newest}; export the ONNX file again"
        )
    return int(versions[0])


def _check_node(node: onnx.NodeProto, name: str) -> None:
    if node.domain not in {*STANDARD, _CONTRIBUTED}:
        raise UnsupportedModelError(
            f"{name}: the operator {node.op_type} of {node.domain!r} is not supported; supported: operators of ONNX "
            f"and of {_CONTRIBUTED}; libraries with custom operators are not loaded"
        )
    if any(part in node.op_type for part in ("Quantize", "Integer", "NBits", "QAttention", "QGemm", "QLinear", "Bnb4")):
        raise _not_float32(f"{name}: it has the operator {node.op_type}")
    if node.op_type == "Cast" and any(a.name == "to" and a.i in _HALVES for a in node.attribute):
        raise _not_float32(f"{name}: it computes in half precision")
    for attribute in node.attribute:
        for tensor in (attribute.t, *attribute.tensors):
            if tensor.data_location == TensorProto.EXTERNAL:
                raise UnsupportedModelError(f"{name}: node {node.name!r} has its constant in a data file")
    for graph in subgraphs(node):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise UnsupportedModelError(f"{name}: tensor {tensor.name!r} of an inner graph is in a data file")


def _check_tensor(tensor: TensorProto, name: str) -> None:
    if tensor.data_type not in _PLAIN:
        known = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in _TYPES else tensor.data_type
        raise _not_float32(f"{name}: tensor {tensor.name!r} is stored as {known}")
    if any(dim < 0 for dim in tensor.dims):
        raise ExportError(f"{name}: tensor {tensor.name!r} has the invalid shape {list(tensor.dims)}")


def _not_float32(finding: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{finding}, so it is not a float32 model; choose one with `--onnx-file`")


def _inputs(graph: onnx.GraphProto, name: str) -> dict[str, int]:
    """Types of the inputs by name. Older files also list every tensor as an input."""
    tensors = {tensor.name for tensor in graph.initializer}
    inputs = {}
    for value in graph.input:
        if value.name in tensors:
            continue
        kind = value.type.tensor_type
        if value.name not in _INPUTS:
            raise UnsupportedModelError(
                f"{name}: the input {value.name!r} is not supported; supported: {', '.join(_INPUTS)}"
            )
        if kind.elem_type not in _INTEGERS:
            raise UnsupportedModelError(f"{name}: the input {value.name!r}: expected int64 or int32")
        dims = list(kind.shape.dim)
        if len(dims) != 2 or any(dim.HasField("dim_value") for dim in dims):
            shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
            raise UnsupportedModelError(
                f"{name}: the input {value.name!r} has a fixed shape {shape}; "
                "export the ONNX file again, with batch and sequence as dynamic axes"
            )
        inputs[value.name] = kind.elem_type
    for needed in _INPUTS[:2]:
        if needed not in inputs:
            raise UnsupportedModelError(f"{name}: expected an input {needed!r}, found {', '.join(inputs) or 'none'}")
    return inputs


def _outputs(model: onnx.ModelProto, name: str) -> tuple[str, str | None, int | None]:
    """Names of token embeddings and of sentence embeddings, and the width of a token embedding."""
    outputs = {value.name: value for value in model.graph.output}
    ranks: dict[int, list[str]] = {}
    for output, value in outputs.items():
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            ranks.setdefault(len(value.type.tensor_type.shape.dim), []).append(output)
    tokens = next((output for output in _TOKEN_OUTPUTS if output in ranks.get(3, ())), None)
    if tokens is None and len(ranks.get(3, ())) > 1:
        raise UnsupportedModelError(
            f"{name}: expected one output with three dimensions, or one named {' or '.join(_TOKEN_OUTPUTS)}; "
            f"found {', '.join(ranks[3])}"
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
        raise UnsupportedModelError(
            f"{name}: expected token or sentence embeddings in float32 as an output, got {found}"
        )
    tokens, width = _tokens_before(model, sentence, name)
    return tokens, sentence, width


def _tokens_before(model: onnx.ModelProto, sentence: str, name: str) -> tuple[str, int]:
    """Find the token embeddings in a graph that only returns sentence embeddings; returns their name and width.

    They are the last value `[batch, sequence, width]` before the sentence embeddings that depends on the token ids. The
    sentence embeddings of the heads are compared with those of the graph, so a wrong guess is an error.
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
    except Exception as error:  # a C++ library, whose exceptions have no common base
        raise ExportError(f"{name}: not a valid graph: {error}") from error
    widths = {value.name: _token_width(value) for value in inferred.graph.value_info}
    found = [
        output
        for node in model.graph.node
        for output in node.output
        if output in needed and output in from_ids and widths.get(output)
    ]
    if not found:
        raise UnsupportedModelError(
            f"{name}: it only returns {sentence!r}, and token embeddings were not found in its graph; "
            "export the ONNX file again with the output last_hidden_state"
        )
    return found[-1], widths[found[-1]] or 0


def _token_width(value: onnx.ValueInfoProto) -> int | None:
    """Width of a float32 value `[batch, sequence, width]`; None for any other value."""
    kind, dims = value.type.tensor_type, value.type.tensor_type.shape.dim
    is_tokens = kind.elem_type == TensorProto.FLOAT and len(dims) == 3
    if not is_tokens or dims[0].HasField("dim_value") or dims[1].HasField("dim_value"):
        return None
    return _width(value)


def _width(value: onnx.ValueInfoProto) -> int | None:
    last = value.type.tensor_type.shape.dim[-1]
    return last.dim_value if last.dim_value > 0 else None


def _embedding_rows(graph: onnx.GraphProto) -> int | None:
    """Rows of the table that the token ids index."""
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

"""Attach an ONNX backbone to a graph: derive its inputs, move its weights, drop unused nodes.

If the backbone pools too, its sentence embeddings are compared with those of the heads.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from embedrt.engine.session import plain_session
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.verify.parity import TOLERANCE
from embedrt_export.graph.builder import INT32, INT64, OPSET, GraphBuilder, names_read, needed, subgraphs
from embedrt_export.graph.opsets import STANDARD, upgrade
from embedrt_export.layers.inputs import TextInputs
from embedrt_export.onnx_backbone.read import Backbone, tensor_values

_SAMPLE_TOKENS = 1024
_PREFIX = "body/"  # of the names of the backbone's values
# Architectures whose positions do not start at 0, so that they cannot be derived from the attention mask.
_OFFSET_POSITIONS = {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}


@dataclass(frozen=True)
class Attached:
    """Values of an attached backbone.

    Attributes:
        tokens: Token embeddings `[batch, sequence, width]`.
        sentence: Sentence embeddings that the backbone pools itself, or None.
        digest: SHA-256 over operators and weights, independent of where and how the weights are stored.
    """

    tokens: str
    sentence: str | None
    digest: str


def attach(graph: GraphBuilder, backbone: Backbone, inputs: TextInputs, architecture: str) -> Attached:
    """Add a backbone to a graph.

    Args:
        graph: The graph.
        backbone: The backbone.
        inputs: The graph's inputs.
        architecture: The `model_type`.

    Raises:
        UnsupportedModelError: An input of the backbone cannot be derived, or an operator is not supported.
        ExportError: A weight is missing or damaged.
    """
    names = _feeds(graph, backbone, inputs, architecture)
    target = max(OPSET, backbone.opset)
    upgraded = upgrade(backbone.model, target, backbone.name)
    stored = {tensor.name: tensor for tensor in backbone.model.graph.initializer}
    wanted = [backbone.tokens] + ([backbone.sentence] if backbone.sentence else [])
    nodes = [_copied(node) for node in needed(list(upgraded.node), wanted)]
    digest = hashlib.sha256(f"opset {target} ".encode())
    used = set(wanted).union(*(names_read(node) for node in nodes))
    for tensor in upgraded.initializer:
        if tensor.name in used:
            values = tensor_values(backbone, stored.get(tensor.name, tensor))
            names[tensor.name] = graph.weight(_PREFIX + tensor.name, values)
            digest.update(f"{tensor.name} {values.dtype} {values.shape} ".encode())
            digest.update(np.asarray(values, order="C").reshape(-1).view(np.uint8).data)
    kept = []
    for node in nodes:
        node.ClearField("doc_string")
        digest.update(node.SerializeToString(deterministic=True))
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            names[node.output[0]] = graph.weight(_PREFIX + node.output[0], tensor_values(backbone, node.attribute[0].t))
        else:
            kept.append(node)
    for node in kept:
        _rename(node, names)
    versions = {entry.domain: entry.version for entry in backbone.model.opset_import}
    domains = {node.domain for node in kept if node.domain not in STANDARD}
    graph.attach(kept, {"": target, **{domain: versions.get(domain, 1) for domain in domains}})
    sentence = _renamed(backbone.sentence, names) if backbone.sentence else None
    return Attached(_renamed(backbone.tokens, names), sentence, digest.hexdigest())


@dataclass(frozen=True)
class Sample:
    """Random tokens to run a graph on.

    Attributes:
        rows: Rows of the word embeddings; token ids are lower.
        length: Largest number of tokens in a text.
    """

    rows: int
    length: int


def require_runs(path: Path, backbone: Backbone, sample: Sample) -> None:
    """Require that ONNX Runtime can run a graph with a backbone.

    Args:
        path: The finished graph.
        backbone: The backbone.
        sample: Tokens to run it on.

    Raises:
        ExportError: ONNX Runtime cannot run it.
    """
    _run(path, ["sentence_embedding"], backbone, sample)


def require_agreement(
    graph: GraphBuilder, backbone: Backbone, pooled: str, sentences: Mapping[str, str], folder: Path, sample: Sample
) -> str:
    """Require that sentence embeddings pooled by the backbone agree with those of the heads.

    Args:
        graph: The graph with the backbone and all heads.
        backbone: The backbone.
        pooled: The backbone's own sentence embeddings.
        sentences: The sentence embeddings after each head, by the head's name.
        folder: Folder of the data file, for a temporary graph beside it.
        sample: Tokens to compare on.

    Returns:
        The head after which they agree.

    Raises:
        ExportError: They agree after none.
    """
    path = folder / "agreement.onnx"
    names = graph.save_values(path, [pooled, *sentences.values()])
    found = _run(path, names, backbone, sample)
    path.unlink()
    theirs, *ours = (_normalized(vectors) for vectors in found)
    errors = {
        head: float(np.abs(vectors - theirs).max()) if vectors.shape == theirs.shape else float("inf")
        for head, vectors in zip(sentences, ours, strict=True)
    }
    best = min(errors, key=errors.__getitem__)
    if not errors[best] <= TOLERANCE:
        shown = ", ".join(f"{head}: {error:.1e}" for head, error in errors.items())
        raise ExportError(
            f"{backbone.name}: its output {backbone.sentence!r} differs from what the modules of modules.json compute "
            f"from its token embeddings (maximum error after each module: {shown}); one of the two is wrong; use "
            "`--via native` or `--via optimum`, which do not need the file"
        )
    return best


def _run(path: Path, outputs: list[str], backbone: Backbone, sample: Sample) -> list[NDArray[np.float32]]:
    """Run a graph on random tokens, in rows of different lengths."""
    random, width = np.random.default_rng(0), min(sample.length, _SAMPLE_TOKENS)
    mask = (np.arange(width) < np.array([[width], [1], [-(-width // 2)]])).astype(np.int64)
    feeds = {
        "input_ids": random.integers(0, sample.rows, mask.shape) * mask,
        "attention_mask": mask,
        "pooling_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    try:
        session = plain_session(path)
        found: list[NDArray[np.float32]] = session.run(outputs, {i.name: feeds[i.name] for i in session.get_inputs()})
    except Exception as error:
        raise ExportError(f"{backbone.name}: ONNX Runtime cannot run it on {width} tokens: {error}") from error
    return found


def _feeds(graph: GraphBuilder, backbone: Backbone, inputs: TextInputs, architecture: str) -> dict[str, str]:
    """Derive the value for each input of the backbone."""
    if inputs.token_type_ids is not None and "token_type_ids" not in backbone.inputs:
        raise UnsupportedModelError(
            f"{backbone.name}: expected an input token_type_ids, as the tokenizer makes token types other than 0; "
            "export the ONNX file again with that input"
        )
    if "position_ids" in backbone.inputs and architecture in _OFFSET_POSITIONS:
        raise UnsupportedModelError(
            f"{backbone.name}: its input position_ids cannot be derived for model_type {architecture!r}; "
            "export the ONNX file again without that input"
        )
    feeds = {}
    for name, kind in backbone.inputs.items():
        value = _feed(graph, name, inputs)
        feeds[name] = graph.op("Cast", value, to=INT32) if kind == INT32 else value
    return feeds


def _feed(graph: GraphBuilder, name: str, inputs: TextInputs) -> str:
    """Derive one input: int64 `[batch, sequence]`."""
    if name == "input_ids":
        return inputs.input_ids
    if name == "attention_mask":
        return inputs.attention_mask
    if name == "token_type_ids":
        zeros = helper.make_tensor("value", INT64, [1], [0])
        return inputs.token_type_ids or graph.op("ConstantOfShape", inputs.shape, value=zeros)
    # Positions start at 0 with the first token, also after left padding.
    counted = graph.op("CumSum", inputs.attention_mask, graph.index(1))
    return graph.op("Max", graph.op("Sub", counted, graph.index(1)), graph.index(0))


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.name = _renamed(node.name, {})
    node.input[:] = [_renamed(name, names) for name in node.input]
    node.output[:] = [_renamed(name, names) for name in node.output]
    for graph in subgraphs(node):
        for part in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            part.name = _renamed(part.name, names)
        for inner in graph.node:
            _rename(inner, names)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    return names.get(name, _PREFIX + name) if name else name


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(norms, np.float32(1e-12))
    return scaled

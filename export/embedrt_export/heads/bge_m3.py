"""The two heads of BGE-M3 beside its pooling: weights of a text's own tokens, and one vector for every token.

Their layers are in `sparse_linear.pt` and `colbert_linear.pt` beside the encoder.
"""

from dataclasses import dataclass

import numpy as np
import tokenizers

from embedrt.types import MULTI_VECTOR, SPARSE, TOKENS
from embedrt_export.graph.builder import FLOAT, INT64, GraphBuilder
from embedrt_export.heads.head import Base, Feature, Head, HeadInputs, HeadOutputs
from embedrt_export.heads.normalize import normalize
from embedrt_export.layers.inputs import flatten, unflatten
from embedrt_export.layers.linear import Linear, project
from embedrt_export.source.weights import Weights

SPARSE_FILE, MULTI_VECTOR_FILE = "sparse_linear.pt", "colbert_linear.pt"
# The tokens without a weight.
_WITHOUT_WEIGHT = ("cls_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class SparseLinear:
    """Settings of the weights of tokens: none."""


@dataclass(frozen=True)
class ColbertLinear:
    """Settings of the vectors of tokens: none."""


def _layer(inputs: HeadInputs, file: str, outputs: int | None) -> tuple[Linear, str]:
    """The linear layer of a file, and the SHA-256 of its weights; `outputs` None takes as many as there are."""
    width = inputs.feature(TOKENS).width
    with Weights(inputs.folder, files=(inputs.folder / file,)) as weights:
        outputs = weights.matrix_shape("weight")[0] if outputs is None else outputs
        return Linear(weights("weight", outputs, width), weights("bias", outputs)), weights.digest()


def add_sparse(inputs: HeadInputs, settings: SparseLinear) -> HeadOutputs:
    """Add the weights: of each token the largest of its places in the text, and 0 for all other tokens."""
    del settings
    graph, tokens = inputs.graph, inputs.feature(TOKENS)
    base = _base(inputs)
    layer, digest = _layer(inputs, SPARSE_FILE, 1)
    flat = flatten(graph, tokens.value, tokens.width)
    weights = graph.to_float(graph.op("Relu", project(graph, flat, "sparse_linear", layer)))
    ids = base.inputs.input_ids
    if graph.is_packed:  # rows of one length again; behind the end of a text is its first token
        index = graph.packed_input("token_index")
        weights = graph.op("Gather", graph.op("Squeeze", weights, graph.ints(1)), index)
        ids = graph.op("Cast", graph.op("Gather", ids, index), to=INT64)
    else:
        weights = graph.op("Reshape", weights, inputs.shape)
        weights = graph.op("Mul", weights, graph.op("Cast", inputs.masks.attention, to=FLOAT))
    weights = graph.op("Mul", weights, graph.to_float(graph.op("Gather", _counted(graph, base), ids)))
    rows = graph.op("Shape", ids, end=1)
    vocabulary = base.tokenizer.tokenization.embedding_rows
    zeros = graph.op("Expand", graph.scalar(0.0), graph.op("Concat", rows, graph.ints(vocabulary), axis=0))
    value = graph.op("ScatterElements", graph.to_float(zeros), ids, weights, axis=1, reduction="max")
    return HeadOutputs({SPARSE: Feature(value, vocabulary, per_token=False)}, digest)


def _base(inputs: HeadInputs) -> Base:
    assert inputs.base is not None  # noqa: S101 - these heads follow a transformer
    return inputs.base


def _counted(graph: GraphBuilder, base: Base) -> str:
    """1 for every token that may have a weight, and 0 for special tokens: float32 `[vocabulary]`."""
    counted = np.ones(base.tokenizer.tokenization.embedding_rows, np.float32)
    backend = tokenizers.Tokenizer.from_str(base.tokenizer.definition)
    for role in _WITHOUT_WEIGHT:
        if (token := base.tokenizer.named.get(role)) is not None:
            counted[backend.token_to_id(token)] = 0
    return graph.weight("sparse_linear.counted", counted)


def add_colbert(inputs: HeadInputs, settings: ColbertLinear) -> HeadOutputs:
    """Add the vectors of all tokens; that of the first one, [CLS], does not count."""
    del settings
    graph, tokens = inputs.graph, inputs.feature(TOKENS)
    layer, digest = _layer(inputs, MULTI_VECTOR_FILE, None)
    width = len(layer.weight)
    flat = project(graph, flatten(graph, tokens.value, tokens.width), "colbert_linear", layer)
    value = normalize(graph, unflatten(graph, flat, inputs.shape, width))
    return HeadOutputs({MULTI_VECTOR: Feature(value, width, per_token=True, normalized=True)}, digest)


SPARSE_HEAD = Head(lambda _: SparseLinear(), add_sparse)
COLBERT_HEAD = Head(lambda _: ColbertLinear(), add_colbert)

"""Static embeddings: the mean over rows of a token embedding table, without a transformer."""

import hashlib
from pathlib import Path

from embedrt.errors import ExportError
from embedrt.types import SENTENCE
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.heads.head import Feature, Masks
from embedrt_export.heads.pooling import pool
from embedrt_export.layers.inputs import text_inputs
from embedrt_export.routes.encoder import Encoder
from embedrt_export.routes.modules import STATIC
from embedrt_export.source.weights import Weights
from embedrt_export.tokenizer import build_tokenizer


def build(graph: GraphBuilder, folder: Path) -> Encoder:
    """Add a StaticEmbedding module to a graph.

    model2vec stores fewer rows than there are tokens, with the row and the weight of every token.

    Args:
        graph: The graph.
        folder: The module's folder.

    Raises:
        UnsupportedModelError: The tokenizer is not supported.
        ExportError: A file is missing or damaged.
    """
    with Weights(folder) as weights:
        name = "embedding.weight" if "embedding.weight" in weights else "embeddings"
        rows, width = weights.matrix_shape(name)
        mapping = weights.integers("mapping") if name == "embeddings" and "mapping" in weights else None
        scale = weights("weights", *weights.shape("weights")) if name == "embeddings" and "weights" in weights else None
        if mapping is not None and (mapping.size == 0 or mapping.min() < 0 or mapping.max() >= rows):
            raise ExportError(f"weights: tensor 'mapping' names rows that {name!r} with its {rows} rows does not have")
        ids = rows if mapping is None else len(mapping)
        if scale is not None and scale.shape != (ids,):
            raise ExportError(f"weights: tensor 'weights': expected shape ({ids},), got {scale.shape}")
        tokenizer = build_tokenizer(folder, STATIC, ids, do_lower_case=False, special_tokens=False)
        inputs = text_inputs(graph, token_type_ids=False)
        table = graph.weight(name, weights(name, rows, width))
        digest = weights.digest()
    row = inputs.input_ids
    if mapping is not None:
        row = graph.op("Gather", graph.weight("mapping", mapping), row)
    tokens = graph.op("Gather", table, row)
    if scale is not None:
        weight = graph.op("Gather", graph.weight("weights", scale), inputs.input_ids)
        tokens = graph.op("Mul", tokens, graph.op("Unsqueeze", weight, graph.ints(2)))
    mean = pool(graph, ("mean",), tokens, Masks(inputs.attention_mask, inputs.attention_mask, long=True))
    digests = [digest] if mapping is None else [digest, hashlib.sha256(mapping.tobytes()).hexdigest()]
    return Encoder(
        architecture="static",
        via="native",
        identity={"model_type": "static"},
        features={SENTENCE: Feature(mean, width, per_token=False)},
        states=[],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=tokenizer.model_max_length,
        position_limit=None,
        digests=digests,
    )

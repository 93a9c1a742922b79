"""Heads, the modules after the encoder: pooling, dense layers, norms. One file and one entry each."""

from embedrt_export.heads import (
    bge_m3,
    causal,
    classification,
    dense,
    dropout,
    language_model,
    layer_norm,
    layer_pooling,
    multi_vector_mask,
    normalize,
    pooling,
    sparse_auto_encoder,
    splade,
    token_pooling,
)
from embedrt_export.heads.head import Head

__all__ = ["HEADS", "Head"]

HEADS: dict[str, Head] = {
    "Pooling": pooling.HEAD,
    "Dense": dense.HEAD,
    "LayerNorm": layer_norm.HEAD,
    "Normalize": normalize.HEAD,
    "Dropout": dropout.HEAD,
    "WeightedLayerPooling": layer_pooling.HEAD,
    "SequenceClassification": classification.HEAD,
    "CausalLanguageModel": causal.LANGUAGE_MODEL,
    "LogitScore": causal.HEAD,
    "MultiVectorMask": multi_vector_mask.HEAD,
    "HierarchicalTokenPooling": token_pooling.HEAD,
    "SparseLinear": bge_m3.SPARSE_HEAD,
    "ColbertLinear": bge_m3.COLBERT_HEAD,
    "MaskedLanguageModel": language_model.HEAD,
    "SpladePooling": splade.HEAD,
    sparse_auto_encoder.KIND: sparse_auto_encoder.HEAD,
}
"""By the last part of a module's type in modules.json; heads of transformers classes have names of their own."""

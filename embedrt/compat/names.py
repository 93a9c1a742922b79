"""The names of `sentence_transformers`: where embedrt has each of them, or what to use instead."""

VERSION = "6.2.0"
"""The release whose API the module has."""
NAME = "sentence_transformers"

_CLASSES = "embedrt.compat.sentence_transformers"
_PARTS = "embedrt.compat.parts"
_UTIL = "embedrt.compat.util"


def _of(module: str, *names: str) -> dict[str, str]:
    """Names that a module of embedrt has, each with its place."""
    return {name: f"{module}:{name}" for name in names}


_SIMILARITY = {
    **_of(
        "embedrt",
        "cos_sim",
        "dot_score",
        "euclidean_sim",
        "manhattan_sim",
        "maxsim",
        "maxsim_pairwise",
        "mean_maxsim",
        "mean_maxsim_pairwise",
        "pairwise_cos_sim",
        "pairwise_dot_score",
        "pairwise_euclidean_sim",
        "pairwise_manhattan_sim",
    ),
    "pytorch_cos_sim": "embedrt:cos_sim",
    **_of(_UTIL, "SimilarityFunction"),
}
_RETRIEVAL = {
    **_of("embedrt", "community_detection", "paraphrase_mining", "paraphrase_mining_embeddings", "semantic_search"),
    "information_retrieval": "embedrt:semantic_search",
}
_QUANTIZATION = _of("embedrt", "quantize_embeddings")
_ARRAYS = _of("embedrt", "normalize_embeddings", "truncate_embeddings")
_LOGGING = _of(_UTIL, "LoggingHandler")
_ENVIRONMENT = _of(_UTIL, "get_device_name")
_BASE_PARTS = _of(_PARTS, "Dense", "InputModule", "Module", "Normalize", "Router", "Transformer")
_DENSE_PARTS = _BASE_PARTS | _of(
    _PARTS,
    "Asym",
    "BoW",
    "CLIPModel",
    "CNN",
    "Dropout",
    "LSTM",
    "LayerNorm",
    "Pooling",
    "StaticEmbedding",
    "WeightedLayerPooling",
    "WordEmbeddings",
    "WordWeights",
)
_SPARSE_PARTS = _of(
    _PARTS,
    "Asym",
    "Dense",
    "InputModule",
    "MLMTransformer",
    "Module",
    "Router",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
    "Transformer",
)
_MULTI_VECTOR_PARTS = {
    **_of(_PARTS, "BaseTokenPooling", "LambdaTokenPooling", "MultiVectorMask"),
    **_of("embedrt", "HierarchicalTokenPooling"),
}
_DENSE = _of(_CLASSES, "SentenceTransformer")
_CROSS = _of(_CLASSES, "CrossEncoder")
_SPARSE = _of(_CLASSES, "SparseEncoder")
_MULTI_VECTOR = _of(_CLASSES, "MultiVectorEncoder")
_MODEL = {"BaseModel": "embedrt.model:Model"}

PROVIDED: dict[str, dict[str, str]] = {
    NAME: {**_DENSE, **_CROSS, **_SPARSE, **_QUANTIZATION, **_LOGGING}
    | _of(_CLASSES, "MultiVectorEncoder")
    | _of(_UTIL, "SimilarityFunction"),
    f"{NAME}.util": {**_SIMILARITY, **_RETRIEVAL, **_QUANTIZATION, **_ARRAYS, **_LOGGING, **_ENVIRONMENT},
    f"{NAME}.util.similarity": _SIMILARITY,
    f"{NAME}.util.retrieval": _RETRIEVAL,
    f"{NAME}.util.quantization": _QUANTIZATION,
    f"{NAME}.util.tensor": _ARRAYS,
    f"{NAME}.util.logging": _LOGGING,
    f"{NAME}.util.environment": _ENVIRONMENT,
    f"{NAME}.base": _MODEL,
    f"{NAME}.base.model": _MODEL,
    f"{NAME}.base.modules": _BASE_PARTS,
    f"{NAME}.sentence_transformer": _DENSE,
    f"{NAME}.sentence_transformer.model": _DENSE,
    f"{NAME}.sentence_transformer.modules": _DENSE_PARTS,
    f"{NAME}.cross_encoder": _CROSS,
    f"{NAME}.cross_encoder.model": _CROSS,
    f"{NAME}.sparse_encoder": _SPARSE,
    f"{NAME}.sparse_encoder.model": _SPARSE,
    f"{NAME}.sparse_encoder.modules": _SPARSE_PARTS,
    f"{NAME}.multi_vector_encoder": _MULTI_VECTOR | _of("embedrt", "maxsim", "maxsim_pairwise"),
    f"{NAME}.multi_vector_encoder.model": _MULTI_VECTOR,
    f"{NAME}.multi_vector_encoder.modules": _MULTI_VECTOR_PARTS,
    # The places of older releases.
    f"{NAME}.LoggingHandler": _LOGGING,
    f"{NAME}.SentenceTransformer": _DENSE,
    f"{NAME}.cross_encoder.CrossEncoder": _CROSS,
    f"{NAME}.models": _DENSE_PARTS,
    f"{NAME}.quantization": _QUANTIZATION,
    f"{NAME}.similarity_functions": _SIMILARITY,
    f"{NAME}.sparse_encoder.SparseEncoder": _SPARSE,
    f"{NAME}.sparse_encoder.models": _SPARSE_PARTS,
}
"""The names of each module, with their places in embedrt."""

_TRAINING = "a bundle cannot be trained: train with sentence-transformers, and export the result with `embedrt export`"
_EVALUATION = (
    "its evaluators compute with torch: install sentence-transformers, and pass an `embedrt.Embedder` to them in a "
    "process without this module"
)
_EXPORT = "`embedrt export` makes the ONNX graph, and `--dtype float32,int8` a quantized one"
_CARD = "`push_to_hub` writes the model card from the bundle"
_SEARCH = "use `embedrt.semantic_search`, which takes quantized vectors with `corpus_precision=`"
_TENSORS = "vectors are NumPy arrays, on no device"
_SPARSE_VECTORS = "sparse vectors are `embedrt.SparseVectors`, which have `max_active_dims=` of the call and `to_scipy`"

INSTEAD: dict[str, str] = {
    **dict.fromkeys(
        (
            "all_gather",
            "all_gather_padded",
            "all_gather_with_grad",
            "check_teacher_targets",
            "data_collator",
            "datasets",
            "disable_datasets_caching",
            "fit_mixin",
            "InputExample",
            "is_training_available",
            "losses",
            "mine_hard_negatives",
            "ParallelSentencesDataset",
            "peft_mixin",
            "readers",
            "resolve_ids",
            "sampler",
            "SentencesDataset",
            "trainer",
            "training_args",
        ),
        _TRAINING,
    ),
    **dict.fromkeys(
        (
            "backend",
            "export_dynamic_quantized_onnx_model",
            "export_optimized_onnx_model",
            "export_static_quantized_openvino_model",
        ),
        _EXPORT,
    ),
    **dict.fromkeys(("semantic_search_faiss", "semantic_search_usearch"), _SEARCH),
    **dict.fromkeys(("batch_to_device", "cat_padded_token_embeddings", "stack_padded_token_embeddings"), _TENSORS),
    **dict.fromkeys(("compute_count_vector", "select_max_active_dims", "to_scipy_coo"), _SPARSE_VECTORS),
    "evaluation": _EVALUATION,
    "http_get": "download with urllib, or with huggingface_hub",
    "model_card": _CARD,
    "pairwise_angle_sim": "`pairwise_cos_sim` is the nearest; it serves the training with AnglELoss",
}
"""Alternatives to names that embedrt lacks."""

# Of classes for each kind of model, such as SentenceTransformerTrainer.
_ENDINGS = {
    "DataCollator": _TRAINING,
    "Evaluator": _EVALUATION,
    "BatchSampler": _TRAINING,
    "BatchSamplers": _TRAINING,
    "Loss": _TRAINING,
    "PeftAdapterMixin": _TRAINING,
    "ModelCardData": _CARD,
    "Trainer": _TRAINING,
    "TrainingArguments": _TRAINING,
}


def instead(name: str) -> str | None:
    """The alternative to a name that embedrt lacks; None if the name is not one of sentence-transformers.

    Args:
        name: A dotted name within the package: that of the innermost part that is known counts.
    """
    for part in reversed(name.split(".")):
        for ending, remedy in _ENDINGS.items():
            if part.endswith(ending):
                return remedy
        if part in INSTEAD:
            return INSTEAD[part]
    return None

"""Sentence embeddings without PyTorch: `embedrt.encode(texts)`, or `embedrt.Embedder(model).encode(texts)`."""

import os
import threading
from typing import Any

from embedrt.embedder import Embedder
from embedrt.errors import (
    BundleError,
    DeviceError,
    EmbeddingsError,
    EmbedrtError,
    ExportError,
    InferenceError,
    MissingDependencyError,
    ModelNotFoundError,
    NonFiniteError,
    ParityError,
    PoolError,
    TruncationError,
    TruncationWarning,
    UnsupportedModelError,
    UploadError,
)
from embedrt.tune.ranges import calibrate
from embedrt.tune.search import tune
from embedrt.types import like
from embedrt.vectors.files import Embeddings, load_embeddings, save_embeddings
from embedrt.vectors.quantization import dequantize_embeddings, quantize_embeddings, vector_ranges
from embedrt.vectors.search import community_detection, paraphrase_mining, paraphrase_mining_embeddings, semantic_search
from embedrt.vectors.similarity import (
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    normalize_embeddings,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    truncate_embeddings,
)

__all__ = [
    "BundleError",
    "DeviceError",
    "Embedder",
    "Embeddings",
    "EmbeddingsError",
    "EmbedrtError",
    "ExportError",
    "InferenceError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NonFiniteError",
    "ParityError",
    "PoolError",
    "TruncationError",
    "TruncationWarning",
    "UnsupportedModelError",
    "UploadError",
    "calibrate",
    "community_detection",
    "cos_sim",
    "default_model",
    "dequantize_embeddings",
    "dot_score",
    "encode",
    "euclidean_sim",
    "load_embeddings",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "quantize_embeddings",
    "save_embeddings",
    "semantic_search",
    "truncate_embeddings",
    "tune",
    "vector_ranges",
]

__version__ = "0.1.0"

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_loaded: dict[str, Embedder] = {}
_loading = threading.Lock()


def default_model() -> str:
    """What `embedrt.encode` and the command line use: `EMBEDRT_MODEL`, else all-MiniLM-L6-v2."""
    return os.environ.get("EMBEDRT_MODEL") or DEFAULT_MODEL


def _default() -> Embedder:
    """The default model, loaded at the first call and kept for the life of the process."""
    name = default_model()
    with _loading:
        if name not in _loaded:
            _loaded[name] = Embedder(name)
    return _loaded[name]


@like(Embedder.encode, bound=True)
def encode(*arguments: Any, **options: Any) -> Any:
    """Encodes with the default model, which is loaded at the first call and kept for the life of the process.

    The arguments, the result and the errors are those of `Embedder.encode`.
    """
    return _default().encode(*arguments, **options)

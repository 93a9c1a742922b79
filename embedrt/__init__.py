"""Sentence embeddings without PyTorch: `embedrt.encode(texts)`, or `embedrt.Embedder(model).encode(texts)`."""

import os
import threading
from collections.abc import Iterable

from embedrt.embedder import Embedder, OnTruncation
from embedrt.errors import (
    BundleError,
    DeviceError,
    EmbedrtError,
    ExportError,
    InferenceError,
    MissingDependencyError,
    ModelNotFoundError,
    NonFiniteError,
    ParityError,
    TruncationError,
    TruncationWarning,
    UnsupportedModelError,
)
from embedrt.runner import Vectors

__all__ = [
    "BundleError",
    "DeviceError",
    "Embedder",
    "EmbedrtError",
    "ExportError",
    "InferenceError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NonFiniteError",
    "ParityError",
    "TruncationError",
    "TruncationWarning",
    "UnsupportedModelError",
    "default_model",
    "encode",
]

__version__ = "0.1.0"

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_loaded: dict[str, Embedder] = {}
_loading = threading.Lock()


def default_model() -> str:
    """What `embedrt.encode` and the command line use: `EMBEDRT_MODEL`, else all-MiniLM-L6-v2."""
    return os.environ.get("EMBEDRT_MODEL") or DEFAULT_MODEL


def encode(
    texts: str | Iterable[str],
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    *,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    task: str | None = None,
    on_truncation: OnTruncation = "ignore",
) -> Vectors:
    """Encodes with the default model, which is loaded at the first call and kept for the life of the process.

    The arguments, the result and the errors are those of `Embedder.encode`.
    """
    name = default_model()
    with _loading:
        if name not in _loaded:
            _loaded[name] = Embedder(name)
    return _loaded[name].encode(
        texts,
        prompt_name,
        prompt,
        batch_size,
        show_progress_bar,
        normalize_embeddings=normalize_embeddings,
        truncate_dim=truncate_dim,
        task=task,
        on_truncation=on_truncation,
    )

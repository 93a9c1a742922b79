"""Sentence embeddings without PyTorch: `embedrt.encode(texts)`, or `embedrt.Embedder(model).encode(texts)`."""

import os
import threading
from typing import Any

from embedrt.embedder import Embedder
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
    PoolError,
    TruncationError,
    TruncationWarning,
    UnsupportedModelError,
)
from embedrt.signatures import like

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
    "PoolError",
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

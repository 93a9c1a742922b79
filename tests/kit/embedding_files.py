"""Embeddings to save, and what loading them gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt.errors import EmbeddingsError
from embedrt.vectors.files import Embeddings, load_embeddings

SUFFIXES = (".safetensors", ".npy", ".parquet")
TEXTS = ["the cat", "", "Ünïcode 漢字 🙂\n\twith\0ends ", "the cat"]


@dataclass(frozen=True)
class Model:
    """What the two functions ask of an Embedder."""

    name: str
    fingerprint: str


OTTER, BADGER = Model("org/otter", "0a" * 32), Model("org/badger", "b0" * 32)

every_format = pytest.mark.parametrize("suffix", SUFFIXES)


def vectors_of(count: int, dim: int = 5, dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    """Vectors of any bits that are finite, the extremes included."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, dim * np.dtype(dtype).itemsize), np.uint8).view(dtype)
    return np.where(np.isfinite(drawn), drawn, np.ones_like(drawn))


def assert_same(found: Embeddings, texts: list[str], vectors: Any, model: Model | None = None) -> None:
    assert found.texts == texts
    assert (found.vectors.dtype, found.vectors.shape) == (vectors.dtype, vectors.shape)
    assert found.vectors.tobytes() == vectors.tobytes()
    assert (found.model, found.fingerprint) == ((model.name, model.fingerprint) if model else (None, None))


def error_of(path: Path, model: Model | None = None) -> str:
    """The message of the error that loading gives."""
    with pytest.raises(EmbeddingsError) as caught:
        load_embeddings(path, model)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)

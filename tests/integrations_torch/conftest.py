"""Frameworks that need torch, and the same frameworks with sentence-transformers on torch: what users had before."""

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import load_corpus

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NUMBA_NUM_THREADS": "1",
    }
)


@pytest.fixture(scope="session")
def entries() -> list[str]:
    """Real texts of 200 to 1000 characters."""
    return [text for text in load_corpus().texts if 200 <= len(text) <= 1000][:800]


@pytest.fixture(scope="session")
def torch_minilm(minilm_source: Path) -> Any:
    """The real all-MiniLM-L6-v2 with sentence-transformers on torch."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_source), device="cpu")

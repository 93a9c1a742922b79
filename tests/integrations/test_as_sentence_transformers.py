"""Libraries that import sentence-transformers, unchanged, with the module of `embedrt.compat`."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder
from embedrt_export import export
from tests.kit import score_models
from tests.kit.pages import ROOT, text
from tests.kit.shared_folders import shared_folder

pytestmark = pytest.mark.subprocess

PROGRAMS = Path(__file__).parent / "as_sentence_transformers"
TEXTS = [
    "Sea otters hold hands while they sleep.",
    "How do otters and seals sleep?",
    "The stadium is full of people, and it rains on the football players.",
    "The goalkeeper held every ball of the match.",
    "Ein Hund läuft über die Straße.",
    "word " * 300,  # more than the model reads
]


@dataclass(frozen=True)
class Client:
    """A library.

    Attributes:
        package: Its package, for the version.
        called: What its program calls.
    """

    package: str
    called: str


CLIENTS = {
    "agno_embedder": Client("agno", "SentenceTransformerEmbedder"),
    "bertopic_model": Client("bertopic", "BERTopic with a model by name and as an object"),
    "chroma_function": Client("chromadb", "SentenceTransformerEmbeddingFunction"),
    "haystack_embedders": Client(
        "sentence-transformers-haystack", "SentenceTransformersTextEmbedder, SentenceTransformersDocumentEmbedder"
    ),
    "keybert_model": Client("keybert", "KeyBERT with a model by name and as an object"),
    "lancedb_function": Client("lancedb", 'the registered function "sentence-transformers"'),
    "langchain_embeddings": Client("langchain-huggingface", "HuggingFaceEmbeddings"),
    "llama_index_embedding": Client("llama-index-embeddings-huggingface", "HuggingFaceEmbedding"),
    "mem0_embedder": Client("mem0ai", "HuggingFaceEmbedding"),
    "skrub_encoder": Client("skrub", "TextEncoder"),
}


@pytest.fixture(scope="session")
def reranker_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small cross-encoder."""

    def make(folder: Path) -> None:
        export(score_models.MODELS["sigmoid"](folder / "model"), folder / "bundle")

    return shared_folder(tmp_path_factory, "integrations/reranker", make) / "bundle"


@pytest.fixture
def store(own_store: Path, minilm_bundle: Path, reranker_bundle: Path) -> Path:
    """A store with both models under the names that programs use."""
    for name, bundle in {"sentence-transformers--all-MiniLM-L6-v2": minilm_bundle, "reranker": reranker_bundle}.items():
        shutil.copytree(bundle, own_store / "bundles" / name, copy_function=os.link)
    return own_store


def run(name: str, folder: Path, store: Path) -> NDArray[Any]:
    """Runs a program, and returns the array that it saves."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "EMBEDRT_HOME": str(store),
        "HF_HUB_OFFLINE": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "ANONYMIZED_TELEMETRY": "False",
        "MEM0_TELEMETRY": "False",
        "AGNO_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }
    target = folder / "found.npy"
    command = [sys.executable, "-m", "embedrt.compat", str(PROGRAMS / f"{name}.py"), json.dumps(TEXTS), str(target)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found: NDArray[Any] = np.load(target)
    return found


@pytest.mark.parametrize("name", CLIENTS)
def test_embeddings(name: str, tmp_path: Path, store: Path, minilm: Embedder) -> None:
    found = run(name, tmp_path, store)
    assert np.abs(found - minilm.encode(TEXTS)).max() <= 1e-6


def test_a_cross_encoder(tmp_path: Path, store: Path, reranker_bundle: Path) -> None:
    found = run("langchain_cross_encoder", tmp_path, store)
    expected = CrossEncoder(reranker_bundle).predict([(TEXTS[0], text) for text in TEXTS])
    assert np.abs(found - expected).max() <= 1e-6


def test_torch_is_not_installed() -> None:
    with pytest.raises(ImportError):
        version("torch")


def test_every_program_is_run_and_named_in_the_guide() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.py")} == {*CLIENTS, "langchain_cross_encoder"}
    page = text(ROOT / "docs" / "guides" / "drop-in.md")
    named = {"mem0ai": "mem0", "chromadb": "Chroma"}
    for client in CLIENTS.values():
        assert named.get(client.package, client.package.split("-")[0]).lower() in page.lower()

"""Libraries that import sentence-transformers, unchanged, with the module of `embedrt.compat`."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder
from tests.kit.clients import TEXTS, Record, max_error, package_version
from tests.kit.pages import ROOT, text

pytestmark = pytest.mark.subprocess

PROGRAMS = Path(__file__).parent / "as_sentence_transformers"
CROSS_ENCODER = "langchain_cross_encoder"


@dataclass(frozen=True)
class Client:
    """A library.

    Attributes:
        name: Its name, as its users write it.
        package: Its package.
        called: What its program calls.
    """

    name: str
    package: str
    called: str


CLIENTS = {
    "agno_embedder": Client("agno", "agno", "SentenceTransformerEmbedder"),
    "bertopic_model": Client("BERTopic", "bertopic", "BERTopic, model by name and as SentenceTransformer"),
    "chroma_function": Client("Chroma", "chromadb", "SentenceTransformerEmbeddingFunction"),
    "haystack_embedders": Client(
        "Haystack",
        "sentence-transformers-haystack",
        "SentenceTransformersDocumentEmbedder, SentenceTransformersTextEmbedder",
    ),
    "keybert_model": Client("KeyBERT", "keybert", "KeyBERT, model by name and as SentenceTransformer"),
    "lancedb_function": Client("LanceDB", "lancedb", 'get_registry().get("sentence-transformers")'),
    CROSS_ENCODER: Client("LangChain", "langchain-community", "HuggingFaceCrossEncoder"),
    "langchain_embeddings": Client("LangChain", "langchain-huggingface", "HuggingFaceEmbeddings"),
    "llama_index_embedding": Client("LlamaIndex", "llama-index-embeddings-huggingface", "HuggingFaceEmbedding"),
    "mem0_embedder": Client("mem0", "mem0ai", "HuggingFaceEmbedding"),
    "skrub_encoder": Client("skrub", "skrub", "TextEncoder"),
}


def run(name: str, folder: Path, store: Path) -> NDArray[Any]:
    """Runs a program, and returns the array that it saves."""
    target = folder / "found.npy"
    command = [sys.executable, "-m", "embedrt.compat", str(PROGRAMS / f"{name}.py"), json.dumps(TEXTS), str(target)]
    environment = {**os.environ, "HOME": str(folder), "EMBEDRT_HOME": str(store), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found: NDArray[Any] = np.load(target)
    return found


@pytest.mark.parametrize("name", CLIENTS)
def test_a_library(
    name: str,
    tmp_path: Path,
    own_store: Path,
    own_minilm_bundle: Path,
    reranker_bundle: Path,
    minilm: Embedder,
    record: Record,
) -> None:
    client = CLIENTS[name]
    bundles = own_store / "bundles"
    shutil.copytree(own_minilm_bundle, bundles / "sentence-transformers--all-MiniLM-L6-v2", copy_function=os.link)
    shutil.copytree(reranker_bundle, bundles / "reranker")
    found = run(name, tmp_path, own_store)
    if name == CROSS_ENCODER:
        expected = CrossEncoder(reranker_bundle).predict([(TEXTS[0], one) for one in TEXTS])
    else:
        expected = minilm.encode(TEXTS)
    error = max_error(found, expected)
    record(client.name, package_version(client.package), f"{client.called} with embedrt.compat", error)


def test_every_program_is_run_and_named_in_the_guide() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.py")} == {*CLIENTS}
    page = text(ROOT / "docs" / "guides" / "drop-in.md")
    for client in CLIENTS.values():
        assert f"| {client.name} |" in page, client.name

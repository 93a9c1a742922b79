"""Qdrant's local mode with texts instead of vectors: through fastembed's registry, and as fastembed's custom model."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from qdrant_client import QdrantClient, models

from embedrt import Embedder
from embedrt.integrations import qdrant
from embedrt.integrations.qdrant import register
from tests.kit.clients import Record

TEXTS = ["one cat", "two dogs in the river", "the bank", "a short text"]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No models of other tests, whose folders are gone."""
    monkeypatch.setattr(qdrant._EmbedrtModels, "choices", {})


def filled(name: str) -> QdrantClient:
    """A database with the texts, whose vectors its client makes."""
    client = QdrantClient(":memory:")
    size = client.get_embedding_size(name)
    client.create_collection("texts", models.VectorParams(size=size, distance=models.Distance.DOT))
    client.upsert(
        "texts",
        [models.PointStruct(id=i, vector=models.Document(text=text, model=name)) for i, text in enumerate(TEXTS)],
    )
    return client


def vectors(client: QdrantClient) -> Any:
    """The stored vectors in the order of the ids."""
    return np.asarray([point.vector for point in client.retrieve("texts", range(len(TEXTS)), with_vectors=True)])


def test_documents_and_queries_are_told_apart(two_sided_bundle: Path, record: Record) -> None:
    name = register(str(two_sided_bundle))
    client, model = filled(name), Embedder(two_sided_bundle)
    documents, query = model.encode_document(TEXTS), model.encode_query(TEXTS[:1])
    found = client.query_points("texts", models.Document(text="one cat", model=name), limit=4).points
    similarity = model.similarity(query, documents)[0]
    assert [point.id for point in found] == np.argsort(-similarity).tolist()
    of_query = np.abs([point.score for point in found] - -np.sort(-similarity)).max()
    error = max(np.abs(vectors(client) - documents).max(), of_query)
    record("qdrant-client", version("qdrant-client"), "upsert, query_points with Document", error)


def test_fastembed_itself(two_sided_bundle: Path, record: Record) -> None:
    name = register(str(two_sided_bundle), truncate_dim=8, normalize=True, name="org/Small")
    opened, model = TextEmbedding("org/small"), Embedder(two_sided_bundle, truncate_dim=8)
    pairs = (
        (opened.embed(TEXTS), model.encode_document(TEXTS, normalize_embeddings=True)),
        (opened.passage_embed(TEXTS), model.encode_document(TEXTS, normalize_embeddings=True)),
        (opened.query_embed(TEXTS), model.encode_query(TEXTS, normalize_embeddings=True)),
        (opened.query_embed("one cat"), model.encode_query(["one cat"], normalize_embeddings=True)),
    )
    error = max(np.abs(list(found) - expected).max() for found, expected in pairs)
    record("fastembed", version("fastembed"), "TextEmbedding.embed, .query_embed", error)
    assert opened.embedding_size == TextEmbedding.get_embedding_size(name) == 8
    assert opened.token_count(TEXTS) == sum(model.token_count(TEXTS))


def test_names_that_are_taken_are_an_error(two_sided_bundle: Path, other_bundle: Path) -> None:
    name = register(str(two_sided_bundle), name="org/taken")
    assert register(str(two_sided_bundle), name="org/taken") == name
    message = f"{Embedder(two_sided_bundle).fingerprint} already, got {Embedder(other_bundle).fingerprint}"
    with pytest.raises(ValueError, match=message):
        register(str(other_bundle), name="org/taken")
    with pytest.raises(ValueError, match="expected one that fastembed does not have, got"):
        register(str(other_bundle), name="baai/bge-small-en-v1.5")


def test_a_bundle_as_a_custom_model_of_fastembed(minilm_bundle: Path, minilm: Embedder, record: Record) -> None:
    TextEmbedding.add_custom_model(
        "custom/all-MiniLM-L6-v2",
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf="custom/all-MiniLM-L6-v2"),
        dim=384,
        output_name="sentence_embedding",
    )
    opened = TextEmbedding("custom/all-MiniLM-L6-v2", specific_model_path=str(minilm_bundle))
    error = np.abs(list(opened.embed(TEXTS)) - minilm.encode(TEXTS)).max()
    record("fastembed", version("fastembed"), "TextEmbedding.add_custom_model, .embed", error)

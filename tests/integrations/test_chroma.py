"""Chroma with its real client: collections in folders, opened again, with the same model and with another one."""

import shutil
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings

from embedrt import Embedder, EmbeddingsError
from embedrt.integrations import choice
from embedrt.integrations.chroma import EmbedrtEmbeddingFunction, open_collection
from tests.kit.clients import Record

TEXTS = ["one cat", "two dogs in the river", "the bank", "a short text"]
IDS = [str(i) for i in range(len(TEXTS))]


def database(folder: Path) -> Any:
    """The database in a folder."""
    return chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))


def filled(folder: Path, function: EmbedrtEmbeddingFunction) -> Any:
    """A collection with the texts."""
    collection = open_collection(database(folder), "texts", function)
    collection.add(ids=IDS, documents=TEXTS)
    return collection


def vectors(collection: Any) -> Any:
    """The stored vectors in the order of the ids."""
    got = collection.get(ids=IDS, include=["embeddings"])
    return np.asarray(got["embeddings"])[np.argsort(got["ids"])]


def test_documents_and_queries_are_told_apart(two_sided_bundle: Path, tmp_path: Path, record: Record) -> None:
    function = EmbedrtEmbeddingFunction(str(two_sided_bundle))
    collection = filled(tmp_path, function)
    model = Embedder(two_sided_bundle)
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    error = max(np.abs(vectors(collection) - documents).max(), np.abs(function.embed_query(TEXTS) - queries).max())
    record("chromadb", chromadb.__version__, "Collection.add, .query", error)
    found = collection.query(query_texts=["one cat"], n_results=4)
    similarity = model.similarity(queries[:1], documents)[0]
    assert found["ids"][0] == [IDS[i] for i in np.argsort(-similarity)]
    np.testing.assert_allclose(found["distances"][0], np.sort(1 - similarity), rtol=0, atol=1e-5)


def test_a_collection_finds_its_model_again(two_sided_bundle: Path, tmp_path: Path) -> None:
    filled(tmp_path, EmbedrtEmbeddingFunction(str(two_sided_bundle), truncate_dim=8, normalize=True))
    again = database(tmp_path).get_collection("texts")
    config = again.configuration_json["embedding_function"]
    assert config["name"] == "embedrt"
    assert config["config"]["fingerprint"] == Embedder(two_sided_bundle).fingerprint
    query = Embedder(two_sided_bundle).encode_query(TEXTS[:1], truncate_dim=8, normalize_embeddings=True)
    by_text, by_vector = again.query(query_texts=TEXTS[:1]), again.query(query_embeddings=query)
    assert by_text["ids"] == by_vector["ids"]
    np.testing.assert_allclose(by_text["distances"], by_vector["distances"], rtol=0, atol=1e-6)


def test_the_distance_is_that_of_the_model(two_sided_bundle: Path, tmp_path: Path) -> None:
    for name, space in {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}.items():
        function = EmbedrtEmbeddingFunction(Embedder(two_sided_bundle, similarity_fn_name=name))
        collection = open_collection(database(tmp_path), name, function)
        assert collection.configuration["hnsw"]["space"] == space


def test_another_model_is_refused(two_sided_bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    collection = filled(tmp_path, EmbedrtEmbeddingFunction(str(two_sided_bundle)))
    another = EmbedrtEmbeddingFunction(str(other_bundle))
    message = (
        f"expected the fingerprint {Embedder(two_sided_bundle).fingerprint}, got {Embedder(other_bundle).fingerprint}"
    )
    with pytest.raises(EmbeddingsError, match=message):
        open_collection(database(tmp_path), "texts", another)
    with pytest.raises(EmbeddingsError, match=message):
        collection.modify(configuration={"embedding_function": another})
    collection.modify(configuration={"embedding_function": EmbedrtEmbeddingFunction(str(two_sided_bundle), threads=1)})
    assert open_collection(database(tmp_path), "texts", EmbedrtEmbeddingFunction(two_sided_bundle)).count() == 4


def test_another_model_of_the_same_name_is_refused(two_sided_bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(two_sided_bundle, bundle)
    filled(tmp_path, EmbedrtEmbeddingFunction(str(bundle)))
    shutil.rmtree(bundle)
    shutil.copytree(other_bundle, bundle)
    choice._opened.cache_clear()  # as in another process
    again = database(tmp_path).get_collection("texts")
    with pytest.raises(EmbeddingsError, match="another model made the vectors that are there"):
        again.query(query_texts=["one cat"])

"""Haystack: components alone, in pipelines with a document store, and written to YAML."""

import asyncio
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder, EmbeddingsError, ModelNotFoundError
from embedrt.integrations.haystack import EmbedrtDocumentEmbedder, EmbedrtRanker, EmbedrtTextEmbedder
from tests.kit.clients import TEXTS, Record, max_error, package_version

CLIENT = ("Haystack", package_version("haystack-ai"))
QUERY = "How do otters sleep?"


def contents() -> list[Document]:
    """The texts as documents."""
    return [Document(id=str(number), content=text) for number, text in enumerate(TEXTS)]


def test_vectors(
    minilm: Embedder, record: Record, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> None:
    given = contents()
    text, document = EmbedrtTextEmbedder(minilm), EmbedrtDocumentEmbedder(minilm)
    made = document.run(given)["documents"]
    record(*CLIENT, "EmbedrtDocumentEmbedder.run", max_error([one.embedding for one in made], documents))
    assert [one.embedding for one in given] == [None] * len(TEXTS)
    found = [text.run(one)["embedding"] for one in TEXTS]
    record(*CLIENT, "EmbedrtTextEmbedder.run", max_error(found, queries))
    assert document.run([]) == {"documents": []}

    async def together() -> tuple[Any, Any]:
        return await document.run_async(given), await text.run_async(QUERY)

    several, one = asyncio.run(together())
    record(
        *CLIENT, "EmbedrtDocumentEmbedder.run_async", max_error([d.embedding for d in several["documents"]], documents)
    )
    record(*CLIENT, "EmbedrtTextEmbedder.run_async", max_error(one["embedding"], queries[1]))


def test_queries_and_documents_are_told_apart(two_sided: Embedder) -> None:
    options: dict[str, Any] = {"truncate_dim": 8, "normalize": True}
    encoded: dict[str, Any] = {"truncate_dim": 8, "normalize_embeddings": True}
    query = EmbedrtTextEmbedder(two_sided, **options).run("a boat")["embedding"]
    (document,) = EmbedrtDocumentEmbedder(two_sided, **options).run([Document(content="a boat")])["documents"]
    assert max_error(query, two_sided.encode_query("a boat", **encoded)) == 0
    assert max_error(document.embedding, two_sided.encode_document("a boat", **encoded)) == 0
    assert query != document.embedding


def test_metadata_goes_before_the_content(minilm: Embedder, reranker: CrossEncoder) -> None:
    given = [
        Document(content="It rains.", meta={"title": "Weather", "year": 2026, "none": None}),
        Document(content=None),
    ]
    fields: dict[str, Any] = {"meta_fields_to_embed": ["title", "none", "year"], "embedding_separator": " | "}
    made = EmbedrtDocumentEmbedder(minilm, **fields).run(given)["documents"]
    expected = np.asarray(minilm.encode_document(["Weather | 2026 | It rains.", ""]))
    assert max_error([one.embedding for one in made], expected) <= 1e-6
    ranked = EmbedrtRanker(reranker, **fields).run(QUERY, given)["documents"]
    scores = [hit["score"] for hit in reranker.rank(QUERY, ["Weather | 2026 | It rains.", ""])]
    assert max_error([one.score for one in ranked], scores) <= 1e-6


def pipelines(model: Any, reranker: Any, store: InMemoryDocumentStore) -> tuple[Pipeline, Pipeline]:
    """One that fills a store, and one that searches in it."""
    indexing = Pipeline()
    indexing.add_component("embedder", EmbedrtDocumentEmbedder(model))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder", "writer")
    search = Pipeline()
    search.add_component("embedder", EmbedrtTextEmbedder(model, threads=None))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=len(TEXTS)))
    search.add_component("ranker", EmbedrtRanker(reranker, top_k=3))
    search.connect("embedder.embedding", "retriever.query_embedding")
    search.connect("retriever", "ranker")
    return indexing, search


def test_pipelines_that_were_written_to_yaml(
    minilm_bundle: Path, minilm: Embedder, reranker_bundle: Path, reranker: CrossEncoder, record: Record
) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing, search = pipelines(minilm_bundle, reranker_bundle, store)
    yaml = search.dumps()
    assert str(minilm_bundle) in yaml
    search = Pipeline.loads(yaml, allowed_modules=["embedrt.integrations.haystack"])
    assert search.dumps() == yaml
    assert indexing.run({"embedder": {"documents": contents()}}) == {"writer": {"documents_written": len(TEXTS)}}
    given = {"embedder": {"text": QUERY}, "ranker": {"query": QUERY}}
    result = search.run(given, include_outputs_from={"retriever"})
    scores = minilm.similarity(minilm.encode_query(QUERY), minilm.encode_document(TEXTS))[0]
    assert [one.id for one in result["retriever"]["documents"]] == [str(place) for place in np.argsort(-scores)]
    ranked = result["ranker"]["documents"]
    texts = [one.content for one in result["retriever"]["documents"]]
    expected = reranker.rank(QUERY, texts, top_k=3)
    assert [one.content for one in ranked] == [texts[hit["corpus_id"]] for hit in expected]
    record(*CLIENT, "EmbedrtRanker.run", max_error([r.score for r in ranked], [h["score"] for h in expected]))
    best = asyncio.run(EmbedrtRanker(reranker).run_async(QUERY, contents(), top_k=1))["documents"]
    assert [one.content for one in best] == [TEXTS[reranker.rank(QUERY, TEXTS)[0]["corpus_id"]]]


def test_what_is_written_does_not_need_the_model() -> None:
    for made in (EmbedrtTextEmbedder("no-such-model"), EmbedrtDocumentEmbedder("no-such-model", dtype="int8")):
        written = made.to_dict()
        assert written["init_parameters"]["model"] == "no-such-model"
        again = type(made).from_dict(written)
        assert again.to_dict() == written
        with pytest.raises(ModelNotFoundError, match="no-such-model"):
            again.warm_up()
    ranker = EmbedrtRanker("no-such-model", top_k=2)
    assert EmbedrtRanker.from_dict(ranker.to_dict()).to_dict() == ranker.to_dict()
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        ranker.warm_up()


def test_an_open_model_is_written_by_its_folder(
    minilm: Embedder, two_sided_bundle: Path, reranker: CrossEncoder
) -> None:
    written = EmbedrtTextEmbedder(minilm).to_dict()
    assert EmbedrtTextEmbedder.from_dict(written).run(QUERY) == EmbedrtTextEmbedder(minilm).run(QUERY)
    written["init_parameters"]["model"] = str(two_sided_bundle)
    with pytest.raises(EmbeddingsError, match="expected the fingerprint"):
        EmbedrtTextEmbedder.from_dict(written).warm_up()
    with pytest.raises(ValueError, match="expected a name, which can be stored, got an open model"):
        EmbedrtRanker(reranker).to_dict()


@pytest.mark.parametrize("copy", [deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["deepcopy", "pickle"])
def test_copies(copy: Any, minilm_bundle: Path) -> None:
    made = EmbedrtTextEmbedder(minilm_bundle)
    assert copy(made).run(QUERY) == made.run(QUERY)

"""LangChain: embeddings in a vector store, and a reranker behind a retriever."""

import asyncio
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder, ModelNotFoundError
from embedrt.integrations.langchain import EmbedrtEmbeddings, EmbedrtReranker
from tests.kit.clients import TEXTS, Record, max_error, package_version

CLIENT = ("LangChain", package_version("langchain-core"))


def test_vectors(
    minilm: Embedder, record: Record, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> None:
    embeddings = EmbedrtEmbeddings(minilm)
    record(*CLIENT, "EmbedrtEmbeddings.embed_documents", max_error(embeddings.embed_documents(TEXTS), documents))
    found = [embeddings.embed_query(text) for text in TEXTS]
    record(*CLIENT, "EmbedrtEmbeddings.embed_query", max_error(found, queries))
    assert type(found[0][0]) is float
    assert embeddings.embed_documents([]) == []

    async def together() -> tuple[Any, Any]:
        return await embeddings.aembed_documents(TEXTS), await embeddings.aembed_query(TEXTS[0])

    many, one = asyncio.run(together())
    record(*CLIENT, "EmbedrtEmbeddings.aembed_documents", max_error(many, documents))
    record(*CLIENT, "EmbedrtEmbeddings.aembed_query", max_error(one, queries[0]))


def test_queries_and_documents_are_told_apart(two_sided: Embedder) -> None:
    embeddings = EmbedrtEmbeddings(two_sided, truncate_dim=8, normalize=True)
    options: dict[str, Any] = {"truncate_dim": 8, "normalize_embeddings": True}
    assert max_error(embeddings.embed_documents(["a boat"])[0], two_sided.encode_document("a boat", **options)) == 0
    assert max_error(embeddings.embed_query("a boat"), two_sided.encode_query("a boat", **options)) == 0
    assert embeddings.embed_query("a boat") != embeddings.embed_documents(["a boat"])[0]


def test_a_vector_store_finds_what_the_model_finds(minilm_bundle: Path, minilm: Embedder) -> None:
    store = InMemoryVectorStore(EmbedrtEmbeddings(minilm_bundle, threads=1))
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score("Wie schlafen Otter?", k=len(TEXTS))
    scores = minilm.similarity(minilm.encode_query("Wie schlafen Otter?"), minilm.encode_document(TEXTS))[0]
    order = np.argsort(-scores)
    assert [document.page_content for document, _ in found] == [TEXTS[place] for place in order]
    np.testing.assert_allclose([score for _, score in found], scores[order], atol=1e-6)


def test_a_retriever_with_a_reranker(
    minilm_bundle: Path, reranker_bundle: Path, reranker: CrossEncoder, record: Record
) -> None:
    store = InMemoryVectorStore(EmbedrtEmbeddings(minilm_bundle))
    store.add_documents([Document(text, metadata={"number": number}) for number, text in enumerate(TEXTS)])
    best = ContextualCompressionRetriever(
        base_compressor=EmbedrtReranker(reranker_bundle, top_n=3),
        base_retriever=store.as_retriever(search_kwargs={"k": len(TEXTS)}),
    )
    found = best.invoke("How do otters sleep?")
    scores = {hit["corpus_id"]: hit["score"] for hit in reranker.rank("How do otters sleep?", TEXTS)[:3]}
    assert {document.metadata["number"] for document in found} == set(scores)
    given = [document.metadata["relevance_score"] for document in found]
    assert given == sorted(given, reverse=True)
    expected = [scores[document.metadata["number"]] for document in found]
    record(*CLIENT, "EmbedrtReranker.compress_documents", max_error(given, expected))
    again = asyncio.run(best.ainvoke("How do otters sleep?"))
    assert [document.metadata for document in again] == [document.metadata for document in found]


def test_a_reranker_leaves_documents_as_they_are(reranker: CrossEncoder) -> None:
    documents = [Document(text, id=str(number)) for number, text in enumerate(TEXTS)]
    found = EmbedrtReranker(reranker).compress_documents(documents, "otters")
    assert len(found) == len(TEXTS)
    assert {document.id for document in found} == {document.id for document in documents}
    assert all(document.metadata == {} for document in documents)
    assert EmbedrtReranker(reranker).compress_documents([], "otters") == []


@pytest.mark.parametrize("copy", [deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["deepcopy", "pickle"])
def test_copies(copy: Any, minilm_bundle: Path, reranker_bundle: Path) -> None:
    embeddings = EmbedrtEmbeddings(minilm_bundle)
    assert copy(embeddings).embed_query(TEXTS[0]) == embeddings.embed_query(TEXTS[0])
    reranker = EmbedrtReranker(reranker_bundle, top_n=2)
    documents = [Document(text) for text in TEXTS]
    assert copy(reranker).compress_documents(documents, "q") == reranker.compress_documents(documents, "q")


def test_a_wrong_name_is_an_error_at_once() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        EmbedrtEmbeddings("no-such-model")
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        EmbedrtReranker("no-such-model")

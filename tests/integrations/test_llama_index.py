"""LlamaIndex: embeddings in an index and an ingestion pipeline, and a reranker behind a retriever."""

import asyncio
import json
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder, EmbeddingsError, ModelNotFoundError
from embedrt.integrations.llama_index import EmbedrtEmbedding, EmbedrtRerank
from tests.kit.clients import TEXTS, Record, max_error, package_version

CLIENT = ("LlamaIndex", package_version("llama-index-core"))
QUERY = "How do otters sleep?"


def nodes() -> list[TextNode]:
    """The texts as nodes; LlamaIndex writes vectors into them."""
    return [TextNode(text=text, id_=str(number)) for number, text in enumerate(TEXTS)]


def test_vectors(
    minilm: Embedder, record: Record, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> None:
    model = EmbedrtEmbedding(minilm)
    assert model.model_name == minilm.name
    record(
        *CLIENT,
        "EmbedrtEmbedding.get_text_embedding_batch",
        max_error(model.get_text_embedding_batch(TEXTS), documents),
    )
    record(*CLIENT, "EmbedrtEmbedding.get_text_embedding", max_error(model.get_text_embedding(TEXTS[0]), documents[0]))
    found = [model.get_query_embedding(text) for text in TEXTS]
    record(*CLIENT, "EmbedrtEmbedding.get_query_embedding", max_error(found, queries))
    assert type(found[0][0]) is float

    async def together() -> tuple[Any, Any, Any]:
        return (
            await model.aget_text_embedding_batch(TEXTS),
            await model.aget_text_embedding(TEXTS[0]),
            await model.aget_query_embedding(TEXTS[0]),
        )

    many, text, query = asyncio.run(together())
    record(*CLIENT, "EmbedrtEmbedding.aget_text_embedding_batch", max_error(many, documents))
    record(*CLIENT, "EmbedrtEmbedding.aget_text_embedding", max_error(text, documents[0]))
    record(*CLIENT, "EmbedrtEmbedding.aget_query_embedding", max_error(query, queries[0]))


def test_queries_and_documents_are_told_apart(two_sided: Embedder) -> None:
    model = EmbedrtEmbedding(two_sided, truncate_dim=8, normalize=True)
    options: dict[str, Any] = {"truncate_dim": 8, "normalize_embeddings": True}
    assert max_error(model.get_text_embedding("a boat"), two_sided.encode_document("a boat", **options)) == 0
    assert max_error(model.get_query_embedding("a boat"), two_sided.encode_query("a boat", **options)) == 0
    assert model.get_query_embedding("a boat") != model.get_text_embedding("a boat")


def test_prompts_are_written_too(minilm_bundle: Path, minilm: Embedder) -> None:
    expected = minilm.encode_query(QUERY, prompt="query: ")
    model = EmbedrtEmbedding(minilm_bundle, prompts={"query": "query: "})
    opened = EmbedrtEmbedding(Embedder(minilm_bundle, prompts={"query": "query: "}))
    for made in (model, opened):
        again = EmbedrtEmbedding.from_dict(json.loads(json.dumps(made.to_dict())))
        assert max_error(made.get_query_embedding(QUERY), expected) <= 1e-6
        assert max_error(again.get_query_embedding(QUERY), expected) <= 1e-6
        assert max_error(again.get_text_embedding(QUERY), minilm.encode_document(QUERY)) <= 1e-6
    assert max_error(EmbedrtEmbedding(minilm_bundle).get_query_embedding(QUERY), minilm.encode_query(QUERY)) <= 1e-6
    with pytest.raises(ValueError, match="prompts: an open model has its own; leave them out"):
        EmbedrtEmbedding(minilm, prompts={"query": "query: "})


def test_an_index_with_a_retriever_and_a_reranker(
    minilm_bundle: Path, minilm: Embedder, reranker: CrossEncoder, record: Record
) -> None:
    index = VectorStoreIndex(nodes(), embed_model=EmbedrtEmbedding(minilm_bundle, threads=1))
    retriever = index.as_retriever(similarity_top_k=len(TEXTS))
    found = retriever.retrieve(QUERY)
    scores = minilm.similarity(minilm.encode_query(QUERY), minilm.encode_document(TEXTS))[0]
    order = np.argsort(-scores)
    assert [one.node.node_id for one in found] == [str(place) for place in order]
    np.testing.assert_allclose([one.score for one in found], scores[order], atol=1e-6)
    assert [one.node.node_id for one in asyncio.run(retriever.aretrieve(QUERY))] == [one.node.node_id for one in found]

    best = EmbedrtRerank(reranker, top_n=3).postprocess_nodes(found, query_str=QUERY)
    expected = reranker.rank(QUERY, [one.node.get_content() for one in found], top_k=3)
    assert [one.node.node_id for one in best] == [found[hit["corpus_id"]].node.node_id for hit in expected]
    record(
        *CLIENT, "EmbedrtRerank.postprocess_nodes", max_error([b.score for b in best], [h["score"] for h in expected])
    )


def test_a_reranker_reads_metadata_and_leaves_nodes_as_they_are(reranker: CrossEncoder) -> None:
    found = [NodeWithScore(node=TextNode(text=text, metadata={"topic": "boat"}), score=0.5) for text in TEXTS]
    ranked = EmbedrtRerank(reranker).postprocess_nodes(found, QueryBundle(QUERY))
    expected = reranker.rank(QUERY, [f"topic: boat\n\n{text}" for text in TEXTS])
    assert [one.node.text for one in ranked] == [TEXTS[hit["corpus_id"]] for hit in expected]
    assert {one.score for one in found} == {0.5}
    with pytest.raises(ValueError, match="query_bundle: expected the query, got None"):
        EmbedrtRerank(reranker).postprocess_nodes(found)


def test_what_is_written_opens_the_same_model_and_no_other(minilm_bundle: Path, two_sided_bundle: Path) -> None:
    model = EmbedrtEmbedding(minilm_bundle, truncate_dim=64, embed_batch_size=3)
    written = json.loads(json.dumps(model.to_dict()))
    again = EmbedrtEmbedding.from_dict(written)
    assert again.embed_batch_size == 3
    assert again.get_query_embedding(QUERY) == model.get_query_embedding(QUERY)
    assert len(again.get_query_embedding(QUERY)) == 64
    with pytest.raises(EmbeddingsError, match=f"expected the fingerprint {written['fingerprint']}, got "):
        EmbedrtEmbedding.from_dict({**written, "model": str(two_sided_bundle)})


def test_the_cache_of_a_pipeline_keeps_models_apart(minilm: Embedder, two_sided: Embedder) -> None:
    pipeline = IngestionPipeline(transformations=[EmbedrtEmbedding(minilm)])
    first = pipeline.run(nodes=nodes())
    other = IngestionPipeline(transformations=[EmbedrtEmbedding(two_sided)], cache=pipeline.cache)
    assert len(first[0].embedding or []) == 384
    assert len(other.run(nodes=nodes())[0].embedding or []) == 32


@pytest.mark.parametrize("copy", [deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["deepcopy", "pickle"])
def test_copies(copy: Any, minilm_bundle: Path, reranker_bundle: Path) -> None:
    model = EmbedrtEmbedding(minilm_bundle)
    assert copy(model).get_query_embedding(QUERY) == model.get_query_embedding(QUERY)
    rerank = EmbedrtRerank(reranker_bundle, top_n=2)
    found = [NodeWithScore(node=node) for node in nodes()]
    assert copy(rerank).postprocess_nodes(found, query_str=QUERY) == rerank.postprocess_nodes(found, query_str=QUERY)


def test_a_reranker_is_written_by_its_name(reranker_bundle: Path, reranker: CrossEncoder) -> None:
    written = json.loads(json.dumps(EmbedrtRerank(reranker_bundle, top_n=2).to_dict()))
    assert EmbedrtRerank.from_dict(written).to_dict() == written
    with pytest.raises(ValueError, match="expected a name, which can be stored, got an open model"):
        EmbedrtRerank(reranker).to_dict()


def test_a_wrong_name_is_an_error_at_once() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        EmbedrtEmbedding("no-such-model")
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        EmbedrtRerank("no-such-model")

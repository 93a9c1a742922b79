"""Pydantic AI: a model in its `Embedder`."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pydantic_ai
import pytest
from numpy.typing import NDArray

from embedrt import Embedder, ModelNotFoundError
from embedrt.integrations.pydantic_ai import EmbedrtEmbeddingModel
from tests.kit.clients import TEXTS, Record, max_error, package_version

pytestmark = pytest.mark.usefixtures("event_loop")
CLIENT = ("Pydantic AI", package_version("pydantic-ai-slim"))


def test_vectors(
    minilm: Embedder, record: Record, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> None:
    embedder = pydantic_ai.Embedder(EmbedrtEmbeddingModel(minilm))
    result = embedder.embed_documents_sync(TEXTS)
    record(*CLIENT, "Embedder.embed_documents", max_error(result.embeddings, documents))
    assert (result.inputs, result.input_type) == (TEXTS, "document")
    assert (result.model_name, result.provider_name) == (minilm.name, "embedrt")
    assert result.usage.input_tokens == sum(minilm.token_count(TEXTS))
    record(*CLIENT, "Embedder.embed_query", max_error(embedder.embed_query_sync(TEXTS).embeddings, queries))
    assert max_error(embedder.embed_query_sync(TEXTS[0]).embeddings, queries[:1]) <= 1e-6


def test_queries_and_documents_are_told_apart(two_sided: Embedder) -> None:
    embedder = pydantic_ai.Embedder(EmbedrtEmbeddingModel(two_sided, truncate_dim=8, normalize=True))
    options: dict[str, Any] = {"truncate_dim": 8, "normalize_embeddings": True}
    query = embedder.embed_query_sync("a boat").embeddings
    document = embedder.embed_documents_sync("a boat").embeddings
    assert max_error(query[0], two_sided.encode_query("a boat", **options)) == 0
    assert max_error(document[0], two_sided.encode_document("a boat", **options)) == 0
    assert query != document


def test_settings(minilm_bundle: Path, minilm: Embedder) -> None:
    embedder = pydantic_ai.Embedder(EmbedrtEmbeddingModel(minilm_bundle, threads=1, settings={"dimensions": 64}))
    short = embedder.embed_query_sync(TEXTS[0]).embeddings
    assert max_error(short[0], minilm.encode_query(TEXTS[0], truncate_dim=64)) <= 1e-6
    assert len(embedder.embed_query_sync(TEXTS[0], settings={"dimensions": 16}).embeddings[0]) == 16


def test_counts_of_tokens(minilm: Embedder) -> None:
    embedder = pydantic_ai.Embedder(EmbedrtEmbeddingModel(minilm))

    async def together() -> tuple[int | None, int]:
        return await embedder.max_input_tokens(), await embedder.count_tokens(TEXTS[-1])

    assert asyncio.run(together()) == (256, 302)


def test_calls_at_once(minilm: Embedder, documents: NDArray[np.float32]) -> None:
    embedder = pydantic_ai.Embedder(EmbedrtEmbeddingModel(minilm))

    async def together() -> Any:
        return await asyncio.gather(*(embedder.embed_documents(text) for text in TEXTS))

    found = [result.embeddings[0] for result in asyncio.run(together())]
    assert max_error(found, documents) <= 1e-6


def test_a_wrong_name_is_an_error_at_once() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        EmbedrtEmbeddingModel("no-such-model")

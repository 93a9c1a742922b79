"""Semantic Router: an encoder for routes."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from semantic_router import IndexedRouter, Route

from embedrt import Embedder, ModelNotFoundError
from embedrt.integrations.semantic_router import EmbedrtEncoder
from tests.kit.clients import TEXTS, Record, max_error, package_version

CLIENT = ("Semantic Router", package_version("semantic-router"))
ROUTES = [
    Route(name="animals", utterances=["Otters sleep in the sea.", "The cat hunts a mouse."]),
    Route(name="sports", utterances=["The stadium is full.", "Our team has won the match."]),
]


def test_vectors(
    minilm: Embedder, record: Record, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> None:
    encoder = EmbedrtEncoder(minilm)
    assert encoder.name == minilm.name
    record(*CLIENT, "EmbedrtEncoder", max_error(encoder(TEXTS), documents))
    record(*CLIENT, "EmbedrtEncoder.encode_documents", max_error(encoder.encode_documents(TEXTS), documents))
    record(*CLIENT, "EmbedrtEncoder.encode_queries", max_error(encoder.encode_queries(TEXTS), queries))

    async def together() -> Any:
        calls = (encoder.acall, encoder.aencode_documents, encoder.aencode_queries)
        return await asyncio.gather(*(call(TEXTS) for call in calls))

    called, made, asked = asyncio.run(together())
    record(*CLIENT, "EmbedrtEncoder.acall", max_error(called, documents))
    record(*CLIENT, "EmbedrtEncoder.aencode_documents", max_error(made, documents))
    record(*CLIENT, "EmbedrtEncoder.aencode_queries", max_error(asked, queries))


def test_queries_and_documents_are_told_apart(two_sided: Embedder) -> None:
    encoder = EmbedrtEncoder(two_sided, truncate_dim=8, normalize=True)
    options: dict[str, Any] = {"truncate_dim": 8, "normalize_embeddings": True}
    assert max_error(encoder.encode_queries(["a boat"])[0], two_sided.encode_query("a boat", **options)) == 0
    assert max_error(encoder.encode_documents(["a boat"])[0], two_sided.encode_document("a boat", **options)) == 0
    assert encoder.encode_queries(["a boat"]) != encoder.encode_documents(["a boat"])


def test_a_router(minilm_bundle: Path, minilm: Embedder) -> None:
    router = IndexedRouter(EmbedrtEncoder(minilm_bundle, threads=1), ROUTES, confidence_threshold=0.2)
    for text, name in {"How do otters sleep?": "animals", "Who won the football match?": "sports"}.items():
        chosen = router(text)
        assert chosen.name == name
        scores = minilm.similarity(
            minilm.encode_query(text),
            minilm.encode_document([one for route in ROUTES if route.name == name for one in route.utterances]),
        )
        assert chosen.confidence == pytest.approx(float(scores.mean()), abs=1e-6)
        assert asyncio.run(router.acall(text)) == chosen
    assert router("Compilers turn source code into machine code.").name is None


def test_a_wrong_name_is_an_error_at_once() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        EmbedrtEncoder("no-such-model")

"""Semantic Router: an encoder for routes."""

import asyncio
from pathlib import Path

from embedrt import Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice

try:
    from pydantic import PrivateAttr
    from semantic_router.encoders.base import AsymmetricDenseMixin, DenseEncoder
except ImportError as error:
    raise MissingDependencyError("Semantic Router is not installed; run `pip install semantic-router`") from error


class EmbedrtEncoder(DenseEncoder, AsymmetricDenseMixin):  # type: ignore[misc]
    """An encoder for routers. Utterances of routes are documents, and what is routed is a query.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.

    Example:
        >>> router = IndexedRouter(EmbedrtEncoder("bundle/"), routes, confidence_threshold=0.3)
    """

    type: str = "embedrt"
    _choice: Choice = PrivateAttr()

    def __init__(
        self,
        model: str | Path | Embedder,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        truncate_dim: int | None = None,
        normalize: bool = False,
    ) -> None:
        choice = Choice(model, device, dtype, threads, truncate_dim, normalize)
        super().__init__(name=choice.embedder.name)
        self._choice = choice

    def __call__(self, docs: list[str]) -> list[list[float]]:
        """The vectors of texts as documents."""
        return self.encode_documents(docs)

    async def acall(self, docs: list[str]) -> list[list[float]]:
        """`__call__` in another thread."""
        return await asyncio.to_thread(self, docs)

    def encode_queries(self, docs: list[str]) -> list[list[float]]:
        """The vectors of queries."""
        vectors: list[list[float]] = self._choice.encode_query(docs).tolist()
        return vectors

    def encode_documents(self, docs: list[str]) -> list[list[float]]:
        """The vectors of utterances."""
        vectors: list[list[float]] = self._choice.encode_document(docs).tolist()
        return vectors

    async def aencode_queries(self, docs: list[str]) -> list[list[float]]:
        """`encode_queries` in another thread."""
        return await asyncio.to_thread(self.encode_queries, docs)

    async def aencode_documents(self, docs: list[str]) -> list[list[float]]:
        """`encode_documents` in another thread."""
        return await asyncio.to_thread(self.encode_documents, docs)

"""LlamaIndex: embeddings for indexes, and a reranker for query engines."""

import asyncio
from pathlib import Path
from typing import Any

from embedrt import CrossEncoder, Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.integrations.reranking import Reranker

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise MissingDependencyError("LlamaIndex is not installed; run `pip install llama-index-core`") from error

# Texts of a call: as many as LlamaIndex allows, since batches are planned by length.
_BATCH_SIZE = 2048


class EmbedrtEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Embeddings that tell queries and documents apart.

    What `to_dict` writes has the model's fingerprint, so that the cache of an ingestion pipeline keeps models apart,
    and `from_dict` refuses another model.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        prompts: Prompts by name, such as "query" and "document"; they override the model's own.
        fingerprint: The fingerprint that the model must have; None takes any.
        **fields: Fields of `BaseEmbedding`, such as `embed_batch_size` and `embeddings_cache`.

    Example:
        >>> index = VectorStoreIndex.from_documents(documents, embed_model=EmbedrtEmbedding("bundle/"))
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    truncate_dim: int | None = None
    normalize: bool = False
    prompts: dict[str, str] | None = None
    fingerprint: str | None = None
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
        prompts: dict[str, str] | None = None,
        fingerprint: str | None = None,
        **fields: Any,
    ) -> None:
        if prompts is None:
            choice = Choice(model, device, dtype, threads, truncate_dim, normalize, fingerprint)
        elif isinstance(model, Embedder):
            raise ValueError("prompts: an open model has its own; leave them out")
        else:  # a model of its own, as others may use the same one without these prompts
            own = Embedder(model, device, dtype=dtype, threads=threads, prompts=prompts)
            choice = Choice(own, truncate_dim=truncate_dim, normalize=normalize, fingerprint=fingerprint)
        opened = choice.embedder
        if isinstance(model, Embedder):
            model, dtype, prompts = opened.folder, opened.dtype, opened.prompts
        super().__init__(
            model=str(model),
            device=device,
            dtype=dtype,
            threads=threads,
            truncate_dim=truncate_dim or opened.truncate_dim,
            normalize=normalize,
            prompts=prompts,
            fingerprint=opened.fingerprint,
            **{"model_name": opened.name, "embed_batch_size": _BATCH_SIZE, **fields},
        )
        self._choice = choice

    @classmethod
    def class_name(cls) -> str:
        """The name of the class in what LlamaIndex writes."""
        return "EmbedrtEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._choice.encode_query([query])[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._choice.encode_document(texts).tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class EmbedrtRerank(BaseNodePostprocessor):  # type: ignore[misc]
    """A node postprocessor that reranks: the best nodes with their new scores.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or a `CrossEncoder`.
        device: As for `CrossEncoder`.
        dtype: As for `CrossEncoder`.
        threads: As for `CrossEncoder`.
        top_n: Nodes to keep; None keeps all.
        **fields: Fields of `BaseNodePostprocessor`.

    Example:
        >>> index.as_query_engine(node_postprocessors=[EmbedrtRerank("reranker/", top_n=3)])
    """

    top_n: int | None = None
    _reranker: Reranker = PrivateAttr()

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        top_n: int | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(top_n=top_n, **fields)
        self._reranker = Reranker(model, device, dtype, threads)
        self._reranker.encoder  # noqa: B018 - a wrong name is an error here, not at the first query

    @classmethod
    def class_name(cls) -> str:
        """The name of the class in what LlamaIndex writes."""
        return "EmbedrtRerank"

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """The fields, with the model's name and options.

        Raises:
            ValueError: The model was given open.
        """
        return {**super().to_dict(**options), **self._reranker.config()}

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("query_bundle: expected the query, got None")
        texts = [found.node.get_content(metadata_mode=MetadataMode.EMBED) for found in nodes]
        ranked = self._reranker.rank(query_bundle.query_str, texts, self.top_n)
        return [NodeWithScore(node=nodes[place].node, score=score) for place, score in ranked]

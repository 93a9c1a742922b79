"""LangChain: embeddings for vector stores, and a reranker for retrievers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedrt import CrossEncoder, Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.integrations.reranking import Reranker

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from pydantic import PrivateAttr
except ImportError as error:
    raise MissingDependencyError("LangChain is not installed; run `pip install langchain-core`") from error


class EmbedrtEmbeddings(Embeddings):  # type: ignore[misc]
    """Embeddings that tell queries and documents apart.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.

    Example:
        >>> store = InMemoryVectorStore(EmbedrtEmbeddings("bundle/"))
    """

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
        self._choice = Choice(model, device, dtype, threads, truncate_dim, normalize)
        self._choice.embedder  # noqa: B018 - a wrong name is an error here, not at the first text

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents."""
        vectors: list[list[float]] = self._choice.encode_document(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a search query."""
        vector: list[float] = self._choice.encode_query([text])[0].tolist()
        return vector


class EmbedrtReranker(BaseDocumentCompressor):  # type: ignore[misc]
    """A reranker for `ContextualCompressionRetriever`; the score is in a document's `metadata["relevance_score"]`.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or a `CrossEncoder`.
        device: As for `CrossEncoder`.
        dtype: As for `CrossEncoder`.
        threads: As for `CrossEncoder`.
        top_n: Documents to keep; None keeps all.

    Example:
        >>> EmbedrtReranker("reranker/", top_n=3).compress_documents(documents, "How do otters sleep?")
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
    ) -> None:
        super().__init__(top_n=top_n)
        self._reranker = Reranker(model, device, dtype, threads)
        self._reranker.encoder  # noqa: B018 - a wrong name is an error here, not at the first query

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Any = None,
    ) -> list[Document]:
        """Copies of the best documents, in the order of their scores."""
        ranked = self._reranker.rank(query, [document.page_content for document in documents], self.top_n)
        return [_scored(documents[place], score) for place, score in ranked]


def _scored(document: Document, score: float) -> Document:
    metadata = {**document.metadata, "relevance_score": score}
    scored: Document = document.model_copy(update={"metadata": metadata})
    return scored

"""Haystack: components that embed queries and documents, and one that ranks documents."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedrt import CrossEncoder, Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.integrations.reranking import Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise MissingDependencyError("Haystack is not installed; run `pip install haystack-ai`") from error


@component
class EmbedrtTextEmbedder:
    """A component that embeds a query.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`. By name it is loaded at the first
            run or by `warm_up`, and a pipeline can be written to YAML.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        fingerprint: The fingerprint that the model must have; None takes any.

    Example:
        >>> EmbedrtTextEmbedder("all-MiniLM-L6-v2").run("How do otters sleep?")["embedding"]
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
        fingerprint: str | None = None,
    ) -> None:
        self._choice = Choice(model, device, dtype, threads, truncate_dim, normalize, fingerprint)

    def warm_up(self) -> None:
        """Load the model."""
        self._choice.embedder  # noqa: B018 - opens it

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack writes it: the model's name and the options."""
        written: dict[str, Any] = default_to_dict(self, **_written(self._choice))
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "EmbedrtTextEmbedder":
        """The component of what `to_dict` has written."""
        made: EmbedrtTextEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed a query."""
        return {"embedding": self._choice.encode_query([text])[0].tolist()}

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """`run` in another thread."""
        return await asyncio.to_thread(self.run, text)


@component
class EmbedrtDocumentEmbedder:
    """A component that embeds documents.

    Args:
        model: As for `EmbedrtTextEmbedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        fingerprint: The fingerprint that the model must have; None takes any.
        meta_fields_to_embed: Names of metadata to embed with the content, before it.
        embedding_separator: Text between these and the content.

    Example:
        >>> EmbedrtDocumentEmbedder("all-MiniLM-L6-v2").run([Document(content="Otters sleep.")])["documents"]
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
        fingerprint: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._choice = Choice(model, device, dtype, threads, truncate_dim, normalize, fingerprint)
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Load the model."""
        self._choice.embedder  # noqa: B018 - opens it

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack writes it: the model's name and the options."""
        written: dict[str, Any] = default_to_dict(
            self,
            **_written(self._choice),
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "EmbedrtDocumentEmbedder":
        """The component of what `to_dict` has written."""
        made: EmbedrtDocumentEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed documents; the result has copies of them with vectors."""
        texts = [_text(document, self.meta_fields_to_embed, self.embedding_separator) for document in documents]
        pairs = zip(documents, self._choice.encode_document(texts).tolist(), strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """`run` in another thread."""
        return await asyncio.to_thread(self.run, documents)


@component
class EmbedrtRanker:
    """A component that sorts documents by their scores for a query, which a cross-encoder computes.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or a `CrossEncoder`; see `EmbedrtTextEmbedder`.
        device: As for `CrossEncoder`.
        dtype: As for `CrossEncoder`.
        threads: As for `CrossEncoder`.
        top_k: Documents to keep; None keeps all.
        meta_fields_to_embed: Names of metadata to score with the content, before it.
        embedding_separator: Text between these and the content.

    Example:
        >>> EmbedrtRanker("reranker/", top_k=3).run("How do otters sleep?", documents)["documents"]
    """

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        top_k: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._reranker = Reranker(model, device, dtype, threads)
        self.top_k = top_k
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Load the model."""
        self._reranker.encoder  # noqa: B018 - opens it

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack writes it: the model's name and the options."""
        written: dict[str, Any] = default_to_dict(
            self,
            **self._reranker.config(),
            top_k=self.top_k,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "EmbedrtRanker":
        """The component of what `to_dict` has written."""
        made: EmbedrtRanker = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rank documents; the result has copies of the best ones with scores."""
        texts = [_text(document, self.meta_fields_to_embed, self.embedding_separator) for document in documents]
        ranked = self._reranker.rank(query, texts, self.top_k if top_k is None else top_k)
        return {"documents": [replace(documents[place], score=score) for place, score in ranked]}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """`run` in another thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)


def _text(document: Document, fields: list[str], separator: str) -> str:
    """The text of a document with some of its metadata."""
    values = [str(document.meta[name]) for name in fields if document.meta.get(name)]
    return separator.join([*values, document.content or ""])


def _written(choice: Choice) -> dict[str, Any]:
    """The arguments of an embedder; they are written without opening the model, unless it was given open."""
    if isinstance(choice.model, Embedder):
        return choice.config()
    return {**vars(choice), "model": str(choice.model)}

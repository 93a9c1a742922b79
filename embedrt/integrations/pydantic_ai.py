"""Pydantic AI: an embedding model for `pydantic_ai.Embedder`."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedrt import Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice

try:
    from pydantic_ai.embeddings import EmbeddingModel, EmbeddingResult, EmbeddingSettings
    from pydantic_ai.embeddings.result import EmbedInputType
    from pydantic_ai.usage import RequestUsage
except ImportError as error:
    raise MissingDependencyError("Pydantic AI is not installed; run `pip install pydantic-ai-slim`") from error


class EmbedrtEmbeddingModel(EmbeddingModel):  # type: ignore[misc]
    """A model for `pydantic_ai.Embedder`. Queries and documents get the model's own prompts.

    The setting `dimensions` truncates vectors. The usage counts the tokens that the model reads of each
    text, without the prompt.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        settings: Default settings of calls.

    Example:
        >>> pydantic_ai.Embedder(EmbedrtEmbeddingModel("all-MiniLM-L6-v2"))
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
        settings: EmbeddingSettings | None = None,
    ) -> None:
        super().__init__(settings=settings)
        self._choice = Choice(model, device, dtype, threads, truncate_dim, normalize)
        self._choice.embedder  # noqa: B018 - a wrong name is an error here, not at the first text

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self._choice.embedder.name

    @property
    def system(self) -> str:
        """The name of the provider."""
        return "embedrt"

    async def embed(
        self,
        inputs: str | Sequence[str],
        *,
        input_type: EmbedInputType,
        settings: EmbeddingSettings | None = None,
    ) -> EmbeddingResult:
        """Embed queries or documents, in another thread."""
        texts, chosen = self.prepare_embed(inputs, settings)
        vectors, tokens = await asyncio.to_thread(self._embed, texts, input_type, chosen.get("dimensions"))
        return EmbeddingResult(
            embeddings=vectors,
            inputs=texts,
            input_type=input_type,
            model_name=self.model_name,
            provider_name=self.system,
            usage=RequestUsage(input_tokens=tokens),
        )

    def _embed(self, texts: Sequence[str], input_type: str, dimensions: int | None) -> tuple[Any, int]:
        choice = self._choice if dimensions is None else replace(self._choice, truncate_dim=dimensions)
        vectors = (choice.encode_query if input_type == "query" else choice.encode_document)(texts)
        return vectors.tolist(), sum(choice.embedder.token_count(texts, input_type))

    async def max_input_tokens(self) -> int | None:
        """The most tokens that the model reads of a text."""
        return self._choice.embedder.max_seq_length

    async def count_tokens(self, text: str) -> int:
        """The tokens of a text, also those beyond `max_input_tokens`."""
        return await asyncio.to_thread(self._choice.embedder.token_count, text, truncation=False)

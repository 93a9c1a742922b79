"""Qdrant: models of embedrt in the registry of fastembed, from which Qdrant's client makes vectors of texts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from embedrt import Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import DenseModelDescription, ModelSource
    from fastembed.text.text_embedding_base import TextEmbeddingBase
except ImportError as error:
    raise MissingDependencyError("fastembed is not installed; run `pip install 'qdrant-client[fastembed]'`") from error


def register(
    model: str | Path | Embedder,
    *,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    truncate_dim: int | None = None,
    normalize: bool = False,
    name: str | None = None,
) -> str:
    """Make a model known to fastembed, and by that to Qdrant's client.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        name: The name in fastembed; None takes "embedrt/" and the model's name, since fastembed has some of the same
            names.

    Returns:
        The name.

    Raises:
        ValueError: fastembed has another model of the name.

    Example:
        >>> name = register("bundle/")
        >>> client.query_points("articles", query=models.Document(text="a cat", model=name))
    """
    choice = Choice(model, device, dtype, threads, truncate_dim, normalize)
    chosen = name or f"embedrt/{choice.embedder.name}"
    known = _EmbedrtModels.choices.get(chosen)
    if known is None and any(chosen.lower() == one["model"].lower() for one in TextEmbedding.list_supported_models()):
        raise ValueError(f"name: expected one that fastembed does not have, got {chosen!r}; choose another")
    if known is not None and known.config() != choice.config():
        raise ValueError(
            f"name: {chosen!r} is the model with the fingerprint {known.embedder.fingerprint} already, got "
            f"{choice.embedder.fingerprint} or other options; choose another name"
        )
    _EmbedrtModels.choices[chosen] = choice
    if _EmbedrtModels not in TextEmbedding.EMBEDDINGS_REGISTRY:
        TextEmbedding.EMBEDDINGS_REGISTRY.append(_EmbedrtModels)
    return chosen


class _EmbedrtModels(TextEmbeddingBase):  # type: ignore[misc]
    """All registered models, as fastembed asks for them; their options are those of `register`."""

    choices: ClassVar[dict[str, Choice]] = {}

    def __init__(self, model_name: str, cache_dir: str | None = None, threads: int | None = None, **_: Any) -> None:
        super().__init__(model_name, cache_dir, threads)
        names = {name.lower(): name for name in self.choices}  # fastembed does not heed case
        self._choice = self.choices[names[model_name.lower()]]

    @classmethod
    def _list_supported_models(cls) -> list[DenseModelDescription]:
        return [
            DenseModelDescription(
                model=name,
                sources=ModelSource(hf=choice.embedder.name),
                model_file="",
                description="a bundle of embedrt",
                license="",
                size_in_GB=0.0,
                dim=choice.dim,
            )
            for name, choice in cls.choices.items()
        ]

    @classmethod
    def get_embedding_size(cls, model_name: str) -> int:
        return cls.choices[model_name].dim

    @property
    def embedding_size(self) -> int:
        return self._choice.dim

    def embed(self, documents: str | Iterable[str], *_: Any, **__: Any) -> Iterator[Vectors]:
        yield from self._choice.encode_document(_listed(documents))

    def query_embed(self, query: str | Iterable[str], **_: Any) -> Iterator[Vectors]:
        yield from self._choice.encode_query(_listed(query))

    def token_count(self, texts: str | Iterable[str], **_: Any) -> int:
        return sum(self._choice.embedder.token_count(_listed(texts)))


def _listed(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)

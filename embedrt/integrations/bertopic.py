"""BERTopic: a backend for its embeddings."""

from collections.abc import Iterable
from pathlib import Path

from embedrt import Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from bertopic.backend import BaseEmbedder
except ImportError as error:
    raise MissingDependencyError("BERTopic is not installed; run `pip install bertopic`") from error


class EmbedrtBackend(BaseEmbedder):  # type: ignore[misc]
    """A backend for `BERTopic(embedding_model=...)`, which replaces objects that it does not know by another model.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.

    Example:
        >>> topics, _ = BERTopic(embedding_model=EmbedrtBackend("bundle/")).fit_transform(texts)
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
        super().__init__(Choice(model, device, dtype, threads, truncate_dim, normalize))

    def embed(self, documents: Iterable[str], verbose: bool = False) -> Vectors:
        """The vectors of documents or words."""
        choice: Choice = self.embedding_model
        return choice.encode(documents, show_progress_bar=verbose)

"""LanceDB: an embedding function, registered as "embedrt"."""

from collections.abc import Sequence
from typing import Any

from embedrt import MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from lancedb.embeddings import TextEmbeddingFunction, register
except ImportError as error:
    raise MissingDependencyError("LanceDB is not installed; run `pip install lancedb`") from error


@register("embedrt")
class EmbedrtEmbeddings(TextEmbeddingFunction):  # type: ignore[misc]
    """An embedding function that tells queries and documents apart; a null gives a null.

    A table keeps its name, options and the model's fingerprint. LanceDB finds the function again by the name
    "embedrt", so a program that opens the table imports this module first.

    Attributes:
        model: A bundle folder, a name in the local store, or a hub id.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        fingerprint: The fingerprint that the model must have; None takes any.
        max_retries: Calls after one that failed. What fails here fails again, so there are none.

    Example:
        >>> model = EmbedrtEmbeddings.create(model="bundle/")
        >>> class Article(LanceModel):
        ...     body: str = model.SourceField()
        ...     vector: Vector(model.ndims()) = model.VectorField()
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    truncate_dim: int | None = None
    normalize: bool = False
    fingerprint: str | None = None
    max_retries: int = 0

    @property
    def _choice(self) -> Choice:
        return Choice(
            self.model, self.device, self.dtype, self.threads, self.truncate_dim, self.normalize, self.fingerprint
        )

    def ndims(self) -> int:
        """Coordinates of a vector."""
        return self._choice.dim

    def compute_query_embeddings(self, query: Any, *_: Any, **__: Any) -> list[Vectors]:
        """The vectors of search queries, one or several."""
        return list(self._choice.encode_query(self.sanitize_input(query)))

    def generate_embeddings(self, texts: Sequence[str | None], *_: Any, **__: Any) -> list[Vectors | None]:
        """The vectors of documents."""
        vectors = iter(self._choice.encode_document(text for text in texts if text is not None))
        return [None if text is None else next(vectors) for text in texts]

    def safe_model_dump(self) -> dict[str, Any]:
        """The options that a table keeps, with the fingerprint."""
        return {**super().safe_model_dump(), "fingerprint": self._choice.embedder.fingerprint}

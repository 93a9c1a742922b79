"""Chroma: an embedding function for collections."""

from pathlib import Path
from typing import Any

from embedrt import Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice, check_update

try:
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
    from chromadb.utils.embedding_functions import register_embedding_function
except ImportError as error:
    raise MissingDependencyError("Chroma is not installed; run `pip install chromadb`") from error

_SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2", "manhattan": "l2"}


@register_embedding_function
class EmbedrtEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]
    """An embedding function that tells queries and documents apart.

    A collection keeps its name, options and the model's fingerprint. Chroma finds the function again by the name
    "embedrt", so a program that opens the collection imports this module first.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        fingerprint: The fingerprint that the model must have; None takes any.

    Example:
        >>> collection = open_collection(client, "articles", EmbedrtEmbeddingFunction("bundle/"))
        >>> collection.add(ids=["1"], documents=["The cat sat."])
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

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma checks the name
        """The vectors of documents."""
        return list(self._choice.encode_document(input))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        """The vectors of search queries."""
        return list(self._choice.encode_query(input))

    @staticmethod
    def name() -> str:
        """The name under which Chroma finds the class."""
        return "embedrt"

    def default_space(self) -> str:
        """The distance for the model's similarity; Chroma has none for manhattan, and takes l2."""
        return _SPACES[self._choice.embedder.similarity_fn_name]

    def get_config(self) -> dict[str, Any]:
        """The model's name, the options and the fingerprint."""
        return self._choice.config()

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "EmbedrtEmbeddingFunction":
        """The function of a stored configuration; its model is checked at first use."""
        return EmbedrtEmbeddingFunction(**config)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Check that a collection with vectors of the old configuration takes those of the new one.

        Raises:
            EmbeddingsError: The vectors are not comparable.
        """
        check_update(old_config, new_config)


def open_collection(client: Any, name: str, embedding_function: EmbedrtEmbeddingFunction, **options: Any) -> Any:
    """Open a collection, and make it if it is not there.

    Chroma itself compares no more than the names of embedding functions, and both are "embedrt" for all models.

    Args:
        client: A client of Chroma.
        name: The collection's name.
        embedding_function: The function for its texts.
        **options: Options of `client.get_or_create_collection`.

    Raises:
        EmbeddingsError: The vectors of the collection are from another model.
    """
    collection = client.get_or_create_collection(name, embedding_function=embedding_function, **options)
    stored = collection.configuration_json.get("embedding_function") or {}
    check_update(stored.get("config") or embedding_function.get_config(), embedding_function.get_config())
    return collection

"""txtai: a vector method for its embeddings."""

from collections.abc import Sequence
from typing import Any

from embedrt import MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from txtai.vectors import Vectors as Method
except ImportError as error:
    raise MissingDependencyError("txtai is not installed; run `pip install txtai`") from error


class EmbedrtVectors(Method):  # type: ignore[misc]
    """A vector method that tells queries and documents apart. txtai makes it by its name in a configuration.

    The configuration's key "vectors" has the options `device`, `dtype`, `threads`, `truncate_dim` and `normalize`. A
    saved index has the model's fingerprint there, and another model is an error.

    Args:
        config: The configuration; its "path" is a bundle folder, a name in the local store, or a hub id.
        scoring: As txtai passes it.
        models: As txtai passes it.

    Example:
        >>> Embeddings({"path": "bundle/", "method": "embedrt.integrations.txtai.EmbedrtVectors"})
    """

    def __init__(self, config: dict[str, Any], scoring: Any = None, models: Any = None) -> None:
        super().__init__(config, scoring, models)
        kept = self.model.config()
        del kept["model"]
        config["vectors"] = kept

    def loadmodel(self, path: str) -> Choice:
        """The model of the configuration."""
        return Choice(path, **self.config.get("vectors", {}))

    def encode(self, data: Sequence[str], category: str | None = None) -> Vectors:
        """The vectors of documents ("data"), else of queries."""
        chosen: Choice = self.model
        return chosen.encode_document(data) if category == "data" else chosen.encode_query(data)

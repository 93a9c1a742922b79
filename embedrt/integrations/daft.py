"""Daft: a provider for `daft.functions.embed_text`."""

import threading
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt import default_model
from embedrt.bulk.options import ModelChoice
from embedrt.bundle.manifest import read_manifest
from embedrt.embedder import Embedder
from embedrt.errors import BulkError, MissingDependencyError
from embedrt.hub.resolve import resolve

try:
    from daft import DataType
    from daft.ai.protocols import TextEmbedder, TextEmbedderDescriptor
    from daft.ai.provider import Provider
    from daft.ai.typing import EmbeddingDimensions
except ImportError as error:
    raise MissingDependencyError("Daft is not installed; run `pip install daft`") from error

_NAME = "embedrt"
# Texts of a call, unless `embed_text` has `batch_size`: they are sorted by length, and need 6 MB of vectors of MiniLM.
_BATCH_SIZE = 4096

_loading = threading.Lock()


@dataclass(frozen=True)
class Call:
    """Arguments of `Embedder.encode`, as there."""

    prompt_name: str | None = None
    prompt: str | None = None
    task: str | None = None
    normalize: bool = False


class EmbedrtProvider(Provider):  # type: ignore[misc]
    """A provider of text embeddings for `daft.functions.embed_text(text, provider=EmbedrtProvider(), model="bundle/")`.

    `model` is a bundle folder, a name in the local store, or a hub id; without it, `embedrt.default_model()`.
    `dimensions` truncates the vectors. A null gives a null.

    Args:
        prompt_name: The model's prompt to put before every text.
        prompt: A prompt of your own.
        task: "query" or "document", for models that treat these differently.
        normalize: Scale vectors to length 1, after truncation.
        device: The device, as `Embedder` takes it.
        dtype: The dtype; None takes the bundle's usual one.
        threads: Threads to use; None takes all cores that the process may use.
        max_tokens: Token budget of a batch.
        max_seq_length: Maximum tokens of a text; None takes the model's.
        local_files_only: Never touch the network.

    Example:
        >>> df.with_column("embedding", embed_text(df["body"], provider=EmbedrtProvider(), model="bundle/"))
    """

    def __init__(
        self,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: str | None = None,
        normalize: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_tokens: int | None = None,
        max_seq_length: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        self._call = Call(prompt_name, prompt, task, normalize)
        self._choice = ModelChoice("", device, dtype, threads, max_tokens, max_seq_length, local_files_only)

    @property
    def name(self) -> str:
        """The name of the provider."""
        return _NAME

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **options: Any
    ) -> TextEmbedderDescriptor:
        """Describe the model to Daft.

        Raises:
            ModelNotFoundError: The name leads to no bundle; the message has the command to run.
            ValueError: The model has fewer coordinates.
        """
        return _Description(model or default_model(), dimensions, self._choice, self._call, dict(options))


@dataclass
class _Description(TextEmbedderDescriptor):  # type: ignore[misc]
    """The description that Daft sends to its workers."""

    model: str
    dimensions: int | None
    choice: ModelChoice
    call: Call
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = resolve(self.model, local_files_only=self.choice.local_files_only, task="embed")
        manifest = read_manifest(folder)
        if manifest.task != "embed":
            raise BulkError(
                f"{self.model}: expected a model with one dense vector a text, got one of the task {manifest.task!r}"
            )
        if self.dimensions is not None and not 0 < self.dimensions <= manifest.dim:
            raise ValueError(f"dimensions: expected 1 to {manifest.dim}, got {self.dimensions}")
        self.width = self.dimensions or manifest.truncate_dim or manifest.dim

    def get_provider(self) -> str:
        return _NAME

    def get_model(self) -> str:
        return self.model

    def get_options(self) -> dict[str, Any]:
        return {"batch_size": _BATCH_SIZE, **self.options}

    def get_dimensions(self) -> EmbeddingDimensions:
        return EmbeddingDimensions(size=self.width, dtype=DataType.float32())

    def instantiate(self) -> TextEmbedder:
        return _Embedder(self.model, self.width, self.choice, self.call)


class _Embedder:
    """The model in a worker of Daft."""

    def __init__(self, model: str, width: int, choice: ModelChoice, call: Call) -> None:
        with _loading:  # Daft makes one in each of its threads
            self._model = _opened(model, choice)
        self._width = width
        self._call = call

    def embed_text(self, text: list[str | None]) -> list[NDArray[np.float32] | None]:
        """The vectors of texts; None for None."""
        found = [one for one in text if one is not None]
        vectors = iter(
            self._model.encode(
                found,
                prompt_name=self._call.prompt_name,
                prompt=self._call.prompt,
                task=self._call.task,
                normalize_embeddings=self._call.normalize,
                truncate_dim=self._width,
            )
        )
        return [None if one is None else next(vectors) for one in text]


@cache
def _opened(model: str, choice: ModelChoice) -> Embedder:
    opened = Embedder(
        model,
        choice.device,
        dtype=choice.dtype,
        threads=choice.threads,
        max_tokens=choice.max_tokens,
        local_files_only=choice.local_files_only,
    )
    if choice.max_seq_length is not None:
        opened.max_seq_length = choice.max_seq_length
    return opened

"""The model of an adapter: a name and options that can be stored, and the open model behind them."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from embedrt import Embedder, EmbeddingsError
from embedrt.types import Vectors

_opening = threading.RLock()  # a signal handler may encode meanwhile
# The options that decide the vectors, beside the model itself.
_MEANING = ("truncate_dim", "normalize")


@dataclass(frozen=True)
class Choice:
    """A model and the form of its vectors.

    The model is opened at first use and stays open for the life of the process, so that adapters of one model share it.
    A pickled copy holds names and options, and opens the model where it is used.

    Attributes:
        model: A bundle folder, a name in the local store, a hub id, or an open model.
        device: The device, as `Embedder` takes it.
        dtype: The dtype, as `Embedder` takes it.
        threads: Threads to use, as `Embedder` takes them.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Whether to scale vectors to length 1, after truncation.
        fingerprint: The fingerprint that the model must have; None takes any.

    Raises:
        ValueError: An open model has a device, a dtype and threads already.
    """

    model: str | Path | Embedder
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    truncate_dim: int | None = None
    normalize: bool = False
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, Embedder) and any(
            option is not None for option in (self.device, self.dtype, self.threads)
        ):
            raise ValueError("device, dtype, threads: an open model has its own; leave them out")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "fingerprint": self.embedder.fingerprint}

    @property
    def embedder(self) -> Embedder:
        """The open model.

        Raises:
            EmbeddingsError: The model has another fingerprint than it must have.
        """
        if isinstance(self.model, Embedder):
            opened = self.model
        else:
            with _opening:
                opened = _opened(self.model, self.device, self.dtype, self.threads)
        _check_same(self.fingerprint, opened.fingerprint)
        return opened

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return self.truncate_dim or self.embedder.get_embedding_dimension()

    def encode(self, texts: Iterable[str], **options: Any) -> Vectors:
        """Vectors of texts of no particular kind; the options are those of `Embedder.encode`."""
        return self._vectors(self.embedder.encode, texts, options)

    def encode_query(self, texts: Iterable[str], **options: Any) -> Vectors:
        """Vectors of search queries."""
        return self._vectors(self.embedder.encode_query, texts, options)

    def encode_document(self, texts: Iterable[str], **options: Any) -> Vectors:
        """Vectors of the texts to search in."""
        return self._vectors(self.embedder.encode_document, texts, options)

    def _vectors(self, encode: Any, texts: Iterable[str], options: dict[str, Any]) -> Vectors:
        vectors: Vectors = encode(
            list(texts), normalize_embeddings=self.normalize, truncate_dim=self.truncate_dim, **options
        )
        return vectors

    def config(self) -> dict[str, Any]:
        """The choice as JSON: `Choice(**config)` opens the same model, or raises an error.

        Raises:
            ValueError: The model is open with settings that its bundle does not have.
        """
        opened = self.embedder
        given = {"device": self.device, "dtype": self.dtype, "threads": self.threads}
        if isinstance(self.model, Embedder):
            _check_as_saved(opened)
            given["dtype"] = opened.dtype
        meaning = {name: getattr(self, name) for name in _MEANING}
        if meaning["truncate_dim"] is None and opened.truncate_dim != opened.manifest.truncate_dim:
            meaning["truncate_dim"] = opened.truncate_dim
        name = opened.folder if isinstance(self.model, Embedder) else self.model
        return {"model": str(name), **given, **meaning, "fingerprint": opened.fingerprint}


def check_update(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Check that vectors of a new configuration may go where those of an old one are.

    Raises:
        EmbeddingsError: The vectors are not comparable.
    """
    _check_same(old.get("fingerprint"), new.get("fingerprint"))
    for name in _MEANING:
        if old.get(name) != new.get(name):
            raise EmbeddingsError(
                f"{name}: expected {old.get(name)!r}, as for the vectors that are there, got {new.get(name)!r}"
            )


def _check_same(expected: str | None, found: str | None) -> None:
    if expected is not None and found != expected:
        raise EmbeddingsError(
            f"model: expected the fingerprint {expected}, got {found}: another model made the vectors that are there; "
            "open that model, or encode the texts again"
        )


def _check_as_saved(opened: Embedder) -> None:
    """Check that opening a model by its folder gives this one."""
    made = opened.manifest
    prompts = {name: text for name, text in opened.prompts.items() if text}
    saved = {name: text for name, text in made.prompts.items() if text}
    if (prompts, opened.default_prompt_name, opened.fingerprint) != (
        saved,
        made.default_prompt_name,
        made.fingerprint,
    ):
        raise ValueError(
            f"model: expected the settings of {opened.folder}, got others, which would not be stored; save the model "
            "with `save_pretrained` and use that folder"
        )


@cache
def _opened(model: str | Path, device: str | None, dtype: str | None, threads: int | None) -> Embedder:
    return Embedder(model, device, dtype=dtype, threads=threads)

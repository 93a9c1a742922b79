"""The cross-encoder of an adapter: a name and options that can be stored, and the open model behind them."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from embedrt import CrossEncoder

_opening = threading.RLock()  # a signal handler may score meanwhile


@dataclass(frozen=True)
class Reranker:
    """A cross-encoder.

    The model is opened at first use and stays open for the life of the process, so that adapters of one model share it.
    A pickled copy holds names and options, and opens the model where it is used.

    Attributes:
        model: A bundle folder, a name in the local store, a hub id, or an open model.
        device: The device, as `CrossEncoder` takes it.
        dtype: The dtype, as `CrossEncoder` takes it.
        threads: Threads to use, as `CrossEncoder` takes them.

    Raises:
        ValueError: An open model has a device, a dtype and threads already.
    """

    model: str | Path | CrossEncoder
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, CrossEncoder) and (self.device, self.dtype, self.threads) != (None, None, None):
            raise ValueError("device, dtype, threads: an open model has its own; leave them out")

    @property
    def encoder(self) -> CrossEncoder:
        """The open model."""
        if isinstance(self.model, CrossEncoder):
            return self.model
        with _opening:
            return _opened(self.model, self.device, self.dtype, self.threads)

    def rank(self, query: str, documents: Sequence[str], top_k: int | None) -> list[tuple[int, float]]:
        """The place of each document in the list and its score, the best first."""
        hits = self.encoder.rank(query, documents, top_k=top_k)
        return [(hit["corpus_id"], float(hit["score"])) for hit in hits]

    def config(self) -> dict[str, Any]:
        """The options as JSON: `Reranker(**config)` opens the same model.

        Raises:
            ValueError: The model was given open, with settings that its bundle may not have.
        """
        if isinstance(self.model, CrossEncoder):
            raise ValueError(  # noqa: TRY004 - the type is right, but not to be stored
                "model: expected a name, which can be stored, got an open model; save it with `save_pretrained` and "
                "use that folder"
            )
        return {**vars(self), "model": str(self.model)}


@cache
def _opened(model: str | Path, device: str | None, dtype: str | None, threads: int | None) -> CrossEncoder:
    return CrossEncoder(model, device=device, dtype=dtype, threads=threads)

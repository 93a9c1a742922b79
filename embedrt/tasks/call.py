"""`Call`: what the checked arguments of a call come to."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from embedrt.bundle.manifest import Manifest
from embedrt.errors import TruncationWarning
from embedrt.inputs.text import preview
from embedrt.run.runner import SENTENCE, Request, Runner
from embedrt.tasks.arguments import coordinates, one_of, positive, prompt_for, ranges_for, route_for
from embedrt.types import OnTruncation, OutputValue, Precision
from embedrt.vectors.quantization import quantize_embeddings

logger = logging.getLogger("embedrt")


class Model(Protocol):
    """The parts of an `Embedder` that a call reads."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    lengths: dict[str, int | None]

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""

    @property
    def folder(self) -> Path:
        """The bundle's folder."""

    @property
    def runners(self) -> dict[str, Runner]:
        """The runners on the model's device, by route."""

    def get_embedding_dimension(self) -> int:
        """Coordinates of a vector that `encode` returns."""


@dataclass(frozen=True)
class Call:
    """What the checked arguments of a call come to.

    Attributes:
        route: Who computes it.
        request: What is wanted of the route.
        precision: What the vectors are stored in.
        ranges: For int8 and uint8; None for those of the vectors themselves.
        on_truncation: What to do about texts that are cut off.
    """

    route: str
    request: Request
    precision: Precision
    ranges: NDArray[Any] | None
    on_truncation: OnTruncation

    def stored(self, values: Any) -> Any:
        """Vectors in the precision of the call."""
        return values if self.precision == "float32" else quantize_embeddings(values, self.precision, self.ranges)

    def report(self, truncated: list[int], texts: int) -> None:
        """Says what was cut off of so many texts."""
        if truncated:
            message = f"{len(truncated)} of {texts} texts cut off after {self.request.max_seq_length} tokens"
            logger.info("%s", message)
            if self.on_truncation == "warn":
                warnings.warn(f"{message}: {preview(truncated)}", TruncationWarning, stacklevel=3)


def call_for(
    model: Model,
    prompt_name: str | None,
    prompt: str | None,
    batch_size: int,
    output_value: OutputValue | None,
    precision: Precision | None,
    normalize_embeddings: bool,
    truncate_dim: int | None,
    ranges: NDArray[Any] | None,
    task: str | None,
    on_truncation: OnTruncation,
) -> Call:
    """Checks the arguments that all ways to encode have, before any work."""
    route = route_for(model.manifest, task)
    dim = model.get_embedding_dimension() if truncate_dim is None else coordinates(truncate_dim, model.manifest.dim)
    one_of(on_truncation, OnTruncation, "on_truncation")
    if output_value is not None:
        one_of(output_value, OutputValue, "output_value")
    request = Request(
        model.lengths[route],
        dim,
        prompt_for(model.prompts, model.default_prompt_name, prompt_name, prompt),
        positive(batch_size, "batch_size"),
        output_value,
        normalize_embeddings,
        refuse_truncation=on_truncation == "error",
    )
    stored: Precision = one_of(precision or "float32", Precision, "precision")
    if output_value != SENTENCE and not model.manifest.routes[route].has_token_embeddings:
        raise ValueError(f"output_value: {output_value!r}: the model {model.manifest.name!r} has no token embeddings")
    if output_value is None and stored != "float32":
        raise ValueError(f"precision: expected 'float32' for output_value=None, got {stored!r}")
    if stored in {"int8", "uint8"}:
        ranges = ranges_for(model.manifest, ranges, route, request)
    elif ranges is not None:
        raise ValueError(f"ranges: only 'int8' and 'uint8' have a use for them, got precision={stored!r}")
    return Call(route, request, stored, ranges, on_truncation)

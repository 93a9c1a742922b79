"""Vectors in the formats that clients ask for: floats, base64, or quantized to bytes or bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.embedder import Embedder
from embedrt.inputs.text import Tokens
from embedrt.server.endpoint import Exchange
from embedrt.server.errors import RequestError
from embedrt.server.replies import base64_floats
from embedrt.server.served import Options, Served, Values
from embedrt.tasks.embed import truncate_and_normalize
from embedrt.types import Precision, Vectors
from embedrt.vectors.quantization import quantize_embeddings

Format = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
"""A format of vectors in a reply."""
_PRECISIONS: dict[Format, Precision] = {"int8": "int8", "uint8": "uint8", "binary": "binary", "ubinary": "ubinary"}


@dataclass(frozen=True)
class Embedded:
    """Vectors before they are written in a format.

    Attributes:
        outcome: The outcome of the request; with ranges, its vectors are as the model has them.
        unit: The vectors at length 1, unless the client wants them as they are.
        ranges: The minimum and the maximum of each coordinate of the model's vectors, `[2, dim]`; None if no format
            needs it.
    """

    outcome: Values
    unit: Vectors
    ranges: NDArray[np.float32] | None

    def rows(self, written: Format) -> NDArray[Any]:
        """One row for each text; `item` writes it for JSON."""
        precision = _PRECISIONS.get(written)
        if precision is None:
            return self.unit
        if precision in {"int8", "uint8"}:
            values: Vectors = self.outcome.values
            return quantize_embeddings(values, precision, self.ranges)
        return quantize_embeddings(self.unit, precision)


def item(row: NDArray[Any], written: Format) -> Any:
    """A row as JSON has it."""
    return base64_floats(row) if written == "base64" else row


async def embed(
    served: Served,
    exchange: Exchange,
    texts: Sequence[str] | Tokens,
    options: Options,
    formats: Sequence[Format] = ("float",),
    *,
    dim: int | None = None,
    normalize: bool = True,
    param: str = "encoding_format",
    dim_param: str = "dimensions",
) -> Embedded:
    """Embed texts, to be written in some formats.

    Args:
        served: The model.
        exchange: The request.
        texts: The texts; or token ids with special tokens.
        options: Prompt and truncation.
        formats: The formats.
        dim: Coordinates to keep; None takes the model's.
        normalize: Scale the vectors to length 1, as those of the hosted services are; False leaves them as they are.
        param: The field with the formats, for messages.
        dim_param: The field with the coordinates, for messages.

    Raises:
        RequestError: There are fewer coordinates, a format needs ranges that the bundle does not have, or the model
            cannot embed the texts.
    """
    if dim is not None and served.offers("embed"):
        most = served.model.manifest.width("sentence")
        if not 1 <= dim <= most:
            raise RequestError(f"{dim_param}: expected 1 to {most}, got {dim}", param=dim_param)
    quantized = next((written for written in formats if written in {"int8", "uint8"}), None)
    if quantized is not None and served.model.manifest.vector_ranges is None:
        raise RequestError(
            f"{param}: {quantized!r} needs the range of each coordinate, which the model {served.name!r} does not "
            "have; `embedrt ranges` measures it",
            param=param,
        )
    scales = normalize and not _has_unit_length(served, dim)
    # Ranges are those of vectors as the model has them; otherwise the engine's threads scale, batch by batch.
    outcome = await served.embed(exchange, texts, options, dim=dim, normalize=scales and quantized is None)
    values: Vectors = outcome.values
    if quantized is None:
        return Embedded(outcome, values, None)
    width = values.shape[-1]
    ranges = np.asarray(served.model.manifest.vector_ranges, np.float32)[:, :width]
    return Embedded(outcome, truncate_and_normalize(values, width, normalize=scales), ranges)


def _has_unit_length(served: Served, dim: int | None) -> bool:
    """True if the model itself normalizes its vectors: to normalize them again would change their last bits."""
    model = served.model
    width = model.truncate_dim if dim is None and isinstance(model, Embedder) else dim
    is_whole = width is None or (served.offers("embed") and width == model.manifest.width("sentence"))
    return is_whole and all(route.normalized for route in model.manifest.routes.values())

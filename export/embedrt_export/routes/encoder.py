"""The encoder of a route, which is its first module, and the limit on its tokens."""

import logging
from dataclasses import dataclass
from typing import Any

from embedrt.bundle.manifest import MOST_TOKENS
from embedrt.errors import ExportError
from embedrt_export.heads.head import Feature
from embedrt_export.layers.inputs import TextInputs
from embedrt_export.onnx_backbone.read import Backbone
from embedrt_export.options import Via
from embedrt_export.tokenizer import BuiltTokenizer

logger = logging.getLogger("embedrt.export")


@dataclass(frozen=True)
class Encoder:
    """An encoder in a graph, with its tokenizer.

    Attributes:
        architecture: The `model_type`, or "static".
        via: The export method.
        identity: Values that identify the encoder in the fingerprint, besides weights and tokenizer.
        features: Its features by name.
        states: Hidden states `[tokens, hidden]` of all layers; empty if the config does not request them, None if it
            does and the encoder does not have them.
        inputs: The graph's inputs.
        tokenizer: The tokenizer.
        max_seq_length: Number of tokens to which texts are truncated, or None without limit.
        position_limit: Largest value that `max_seq_length` may be set to, or None without limit.
        digests: SHA-256 of the weights that were read.
        backbone: The ONNX backbone that was attached, if any.
        pooled: Sentence embeddings that the backbone pools itself, to compare with those of the heads.
    """

    architecture: str
    via: Via
    identity: dict[str, Any]
    features: dict[str, Feature]
    states: list[str] | None
    inputs: TextInputs
    tokenizer: BuiltTokenizer
    max_seq_length: int | None
    position_limit: int | None
    digests: list[str]
    backbone: Backbone | None = None
    pooled: str | None = None


def max_seq_length(
    wanted: int | None, tokenizer: BuiltTokenizer, stated: int | None, positions: int | None
) -> int | None:
    """The limit that sentence-transformers would use, but never more than there are position embeddings.

    Args:
        wanted: The limit in the module's config.
        tokenizer: The tokenizer, which may have a limit too.
        stated: The key `max_position_embeddings` of the config.
        positions: Number of positions of the model, or None if it is unlimited or unknown.

    Raises:
        ExportError: The limit leaves no room for text, or is beyond every text.
    """
    if wanted is None:
        limits = [tokenizer.model_max_length, stated, positions]
        wanted = min((limit for limit in limits if limit is not None), default=None)
    if positions is not None and wanted is not None and wanted > positions:
        logger.warning(
            "max_seq_length %d exceeds the %d positions of the model; using %d", wanted, positions, positions
        )
        wanted = positions
    if wanted is not None and wanted > MOST_TOKENS:
        raise ExportError(f"max_seq_length {wanted}: expected at most {MOST_TOKENS}; correct it in the config")
    if wanted is not None and wanted <= tokenizer.special_tokens:
        raise ExportError(
            f"max_seq_length {wanted} leaves no room for text beside the {tokenizer.special_tokens} special tokens; "
            "correct it in the config"
        )
    return wanted


def position_limit(length: int | None, stated: int | None, positions: int | None) -> int | None:
    """Largest valid `max_seq_length`: the number of positions, or else the length that the model was trained for.

    Args:
        length: The `max_seq_length` of the model.
        stated: The key `max_position_embeddings` of the config.
        positions: Number of positions of the model, or None if it is unlimited or unknown.
    """
    if positions is not None or stated is None or length is None:
        return positions
    return min(max(stated, length), MOST_TOKENS)

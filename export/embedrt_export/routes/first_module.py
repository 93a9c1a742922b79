"""What the first module of a chain gives to the others, and how it comes from an ONNX body."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.families import FAMILIES, family_name
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.inputs import TextInputs, text_inputs
from embedrt_export.onnx_backbone.attach import attach
from embedrt_export.onnx_backbone.read import Backbone
from embedrt_export.options import Via
from embedrt_export.source import modules
from embedrt_export.tokenizer import BuiltTokenizer, build_tokenizer

logger = logging.getLogger("embedrt.export")

TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")  # how configs name the width of a token embedding


@dataclass(frozen=True)
class Feature:
    """A value that modules hand on.

    Attributes:
        value: Its name in the graph: float32 `[batch, sequence, width]` if `per_token`, else `[batch, width]`.
        width: Its width.
        per_token: Whether there is one for every token.
        normalized: Whether its vectors have length 1.
    """

    value: str
    width: int
    per_token: bool
    normalized: bool = False


@dataclass(frozen=True)
class Start:
    """What the first module of a chain gives.

    Attributes:
        architecture: The `model_type`, or "static".
        via: How it was made.
        identity: What tells the model from others, beside weights and tokenizer.
        features: Its features by name.
        states: Hidden states `[tokens, hidden]` of all layers; empty where the config does not ask for them, None where
            it does and they are not to be had.
        inputs: The graph's inputs.
        tokenizer: The tokenizer.
        max_seq_length: How many tokens it reads, or None without limit.
        position_limit: How many it could read at most, or None without limit.
        digests: SHA-256 of the weights that were read.
        body: The ONNX body that it came from, if any.
        pooled: Vectors that the body pools by itself, to compare with ours.
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
    body: Backbone | None = None
    pooled: str | None = None


def body_start(graph: GraphBuilder, body: Backbone, folder: Path, settings: modules.Transformer, via: Via) -> Start:
    """Takes the token embeddings from an ONNX body.

    Args:
        graph: The graph.
        body: The body.
        folder: The transformer's folder.
        settings: The settings of the module.
        via: How the body came to be.

    Raises:
        UnsupportedModelError: The body has something that is not supported.
        ExportError: A part of it is missing or damaged.
    """
    model_type, config = settings.architecture, settings.config
    rows = body.rows or _size(config, ("vocab_size",), body)
    width = body.width or _size(config, _WIDTHS, body)
    tokenizer = build_tokenizer(folder, model_type, rows, do_lower_case=settings.do_lower_case)
    inputs = text_inputs(graph, token_type_ids=tokenizer.tokenization.token_type_ids)
    attached = attach(graph, body, inputs, model_type)
    stated = config.get("max_position_embeddings")
    stated = stated if type(stated) is int else None
    positions = _positions(model_type, config)
    length = max_seq_length(settings.max_seq_length, tokenizer, stated, positions)
    return Start(
        architecture=model_type,
        via=via,
        identity={"model_type": model_type},
        features={TOKENS: Feature(attached.tokens, width, per_token=True)},
        states=None if settings.output_hidden_states else [],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=length,
        position_limit=position_limit(length, stated, positions),
        digests=[attached.digest],
        body=body,
        pooled=attached.sentence,
    )


def max_seq_length(
    wanted: int | None, tokenizer: BuiltTokenizer, stated: int | None, positions: int | None
) -> int | None:
    """The limit that sentence-transformers would use, but never more than there are position embeddings.

    Args:
        wanted: What the module says.
        tokenizer: The tokenizer, which may have a limit too.
        stated: The key `max_position_embeddings` of the config.
        positions: How many positions the model has, or None where there is no end or it is not known.

    Raises:
        ExportError: It leaves no room for text.
    """
    if wanted is None:
        limits = [tokenizer.model_max_length, stated, positions]
        wanted = min((limit for limit in limits if limit is not None), default=None)
    if positions is not None and wanted is not None and wanted > positions:
        logger.warning(
            "max_seq_length %d is more than the %d positions that the model has; using those", wanted, positions
        )
        wanted = positions
    if wanted is not None and wanted <= tokenizer.special_tokens:
        raise ExportError(
            f"max_seq_length {wanted} leaves no room for text beside the {tokenizer.special_tokens} special tokens"
        )
    return wanted


def position_limit(length: int | None, stated: int | None, positions: int | None) -> int | None:
    """What `max_seq_length` may be raised to: the positions that there are, else those that the model was made for.

    Args:
        length: The `max_seq_length` of the model.
        stated: The key `max_position_embeddings` of the config.
        positions: How many positions the model has, or None where there is no end or it is not known.
    """
    if positions is not None or stated is None or length is None:
        return positions
    return max(stated, length)


def _positions(model_type: str, config: dict[str, Any]) -> int | None:
    """How many positions a model has, if its family is known."""
    family = FAMILIES.get(family_name(config, model_type))
    if family is None:
        return None
    try:
        return family.positions(family.read_config(config))
    except UnsupportedModelError:  # a variant that the family does not build, which is why the body is taken
        return None


def _size(config: Mapping[str, Any], keys: tuple[str, ...], body: Backbone) -> int:
    found = next((config[key] for key in keys if type(config.get(key)) is int and config[key] > 0), None)
    if found is None:
        raise UnsupportedModelError(f"{body.name}: neither it nor config.json has a {' or '.join(keys)}")
    return int(found)

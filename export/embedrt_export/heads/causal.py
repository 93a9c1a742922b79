"""Scores of causal language models: logits of one or two tokens of the vocabulary after the last token of a text.

The language model's head is not in modules.json, and only two of its rows are computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import LOGITS, TOKENS
from embedrt_export.heads.head import Base, Feature, Head, HeadInputs, HeadOutputs, read_settings
from embedrt_export.heads.pooling import pool
from embedrt_export.layers.linear import Linear, project
from embedrt_export.source.adapters import CONFIG as ADAPTER_CONFIG
from embedrt_export.source.adapters import Adapter
from embedrt_export.source.configs import pick, read_config
from embedrt_export.source.weights import Weights
from embedrt_export.tokenizer import parsed

_HEAD, _TABLE = "lm_head.weight", "embed_tokens.weight"
# Families whose head is a matrix of its own or the word embeddings, by which of the two is the default.
_TIED: Mapping[str, bool] = {"gemma3_text": True, "llama": False, "mistral": False, "qwen2": False, "qwen3": False}
_YES, _NO = "yes", "no"


@dataclass(frozen=True)
class CausalLanguageModel:
    """Keys of config.json that change the logits; null is the default of the architecture."""

    tie_word_embeddings: bool | None = None
    final_logit_softcapping: float | None = None


@dataclass(frozen=True)
class LogitScore:
    """Settings of the module; without ids, the tokens are "yes" and "no"."""

    true_token_id: int | None = None
    false_token_id: int | None = None
    module_input_name: str = "causal_logits"


def read_language_model(folder: Path) -> CausalLanguageModel:
    """Read the keys from the config of the transformer."""
    return pick(CausalLanguageModel, read_config(folder / "config.json"))


def add_language_model(inputs: HeadInputs, settings: CausalLanguageModel) -> HeadOutputs:
    """Add nothing: the module after it adds the rows that it needs."""
    del settings
    _base(inputs)
    return HeadOutputs({})


def add(inputs: HeadInputs, settings: LogitScore) -> HeadOutputs:
    """Add the logits after the last token, and their difference if there are two.

    Raises:
        UnsupportedModelError: The family's head is not supported, or the vocabulary has no such tokens.
        ExportError: A tensor is missing, or an id is outside of it.
    """
    base, graph, tokens = _base(inputs), inputs.graph, inputs.feature(TOKENS)
    if settings.module_input_name != "causal_logits":
        raise UnsupportedModelError(
            f"{inputs.where}: module_input_name: expected 'causal_logits', got {settings.module_input_name!r}"
        )
    ids = _ids(base, settings)
    keys = read_language_model(base.folder)
    tied = _TIED[base.family] if keys.tie_word_embeddings is None else keys.tie_word_embeddings
    adapter = Adapter(base.folder, base.prefixes) if (base.folder / ADAPTER_CONFIG).is_file() else None
    with Weights(base.folder, base.prefixes, base.renames, adapter) as weights:
        table = weights(_TABLE if tied else _HEAD, weights.matrix_shape(_TABLE)[0], tokens.width)
        digest = weights.digest()
    if (largest := max(ids)) >= len(table) or min(ids) < 0:
        raise ExportError(f"{inputs.where}: expected ids below {len(table)}, the rows of the head, got {largest}")
    rows = np.ascontiguousarray(table[list(ids)])
    last = pool(graph, ("lasttoken",), tokens.value, inputs.masks)
    logits = project(graph, last, "lm_head", Linear(rows, None))
    if (cap := keys.final_logit_softcapping) is not None:
        bound = graph.scalar(cap)
        logits = graph.op("Mul", graph.op("Tanh", graph.op("Div", logits, bound)), bound)
    if len(ids) > 1:
        true, false = (graph.op("Gather", logits, graph.ints(i), axis=1) for i in range(2))
        logits = graph.op("Sub", true, false)
    return HeadOutputs({LOGITS: Feature(logits, 1, per_token=False)}, digest)


def _ids(base: Base, settings: LogitScore) -> tuple[int, ...]:
    """The ids of the tokens whose logits count: the one that adds to the score, and perhaps one that is taken off."""
    if settings.true_token_id is not None:
        return tuple(i for i in (settings.true_token_id, settings.false_token_id) if i is not None)
    tokenizer: Any = parsed(base.tokenizer)
    found = [tokenizer.token_to_id(token) for token in (_YES, _NO)]
    if None in found:
        raise UnsupportedModelError(
            f"tokenizer: expected the tokens {_YES!r} and {_NO!r}, whose logits make the score; a model with other "
            "tokens needs a LogitScore module"
        )
    return tuple(found)


def _base(inputs: HeadInputs) -> Base:
    base = inputs.base
    if base is None or base.family not in _TIED:
        found = "static embeddings" if base is None else base.family
        raise UnsupportedModelError(
            f"{inputs.where}: expected a transformer of {', '.join(_TIED)}, got {found}; its head is not supported"
        )
    return base


def read(folder: Path) -> LogitScore:
    """Read the module's config.

    Raises:
        ExportError: It does not name a token.
    """
    settings = read_settings(LogitScore, folder)
    if settings.true_token_id is None:
        raise ExportError(f"{folder.name}: config.json: true_token_id is missing")
    return settings


LANGUAGE_MODEL = Head(read_language_model, add_language_model)
HEAD = Head(read, add)

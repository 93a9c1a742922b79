"""Settings of models that score pairs: the activation after the logits, and the template of causal rerankers."""

import logging
from collections.abc import Mapping
from typing import Any

from embedrt.bundle.manifest import Scoring, Template
from embedrt.errors import UnsupportedModelError
from embedrt.types import ACTIVATIONS
from embedrt_export.routes.chat_template import ChatTemplate, form_of, read_chat_template, resolve
from embedrt_export.routes.modules import ModuleSpec
from embedrt_export.routes.recognize import TOP
from embedrt_export.tokenizer import BuiltTokenizer

logger = logging.getLogger("embedrt.export")

_OURS = "sentence_transformers"
_OLD = "sbert_ce_default_activation_function"


def scoring_of(stated: str | None, config: Mapping[str, Any], labels: int) -> Scoring:
    """The settings of a model that scores pairs.

    Args:
        stated: The activation in `config_sentence_transformers.json`.
        config: The transformer's config.json, which older versions of sentence-transformers write it to.
        labels: The number of labels.

    Raises:
        UnsupportedModelError: The activation is not supported; the message names it.
    """
    own = config.get(_OURS)
    if isinstance(own, dict) and "activation_fn" in own:
        older, key = own["activation_fn"], f"{_OURS}.activation_fn"
    else:
        older, key = config.get(_OLD), _OLD
    for path, where in ((stated, f"{TOP}: activation_fn"), (older, f"config.json: {key}")):
        if path is None:
            continue
        if not isinstance(path, str):
            raise UnsupportedModelError(f"{where}: expected a string, got {type(path).__name__}")
        if not path.startswith("torch."):
            logger.warning("%s: %r is not a function of torch, and left out as in sentence-transformers", where, path)
            continue
        name = path.rpartition(".")[2]
        if name not in ACTIVATIONS:
            raise UnsupportedModelError(f"{where}: {path!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
        return Scoring(name)
    return Scoring("Sigmoid" if labels == 1 else "Identity")


def template_of(module: ModuleSpec, tokenizer: BuiltTokenizer) -> Template | None:
    """The template of the Transformer module of a model that scores pairs; None if it reads the two texts themselves.

    Raises:
        UnsupportedModelError: The model has no template, or one that is not supported.
    """
    settings = module.transformer
    if settings.messages is False:
        return None
    text = read_chat_template(module.folder)
    if text is None:
        if settings.messages is None:
            return None
        raise UnsupportedModelError("modality_config: the model reads messages, but its tokenizer has no chat template")
    named = {role: token for role, token in tokenizer.named.items() if isinstance(token, str)}
    form = settings.message_form or form_of(text, settings.architecture)
    return resolve(ChatTemplate(text, {**named, **settings.template_variables}, form))

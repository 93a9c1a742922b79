"""Heads of masked language models: a linear layer with an activation and a norm, and a decoder to the vocabulary.

The decoder is a matmul with the word embeddings, or with weights of its own. It is left to the module after the head,
which adds it in blocks: the logits of all tokens would take 100 times the memory of everything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import TOKENS
from embedrt_export.heads.head import Base, Feature, Head, HeadInputs, HeadOutputs
from embedrt_export.layers.activations import activation
from embedrt_export.layers.inputs import flatten, unflatten
from embedrt_export.layers.linear import Linear, project
from embedrt_export.layers.norms import layer_norm
from embedrt_export.source.adapters import CONFIG as ADAPTER_CONFIG
from embedrt_export.source.adapters import Adapter
from embedrt_export.source.configs import pick, read_config
from embedrt_export.source.weights import Weights

PREDICTIONS = "predictions"
"""The feature before the decoder, `[batch, sequence, width]`."""


@dataclass(frozen=True)
class MaskedLanguageModel:
    """Settings of the head: keys of config.json. None is the architecture's default."""

    tie_word_embeddings: bool = True
    hidden_act: str | None = None
    activation: str | None = None
    layer_norm_eps: float | None = None
    norm_eps: float | None = None
    classifier_activation: str | None = None
    classifier_bias: bool = False
    norm_bias: bool = False
    decoder_bias: bool = True


@dataclass(frozen=True)
class _Family:
    """The head of an architecture, by the names of its parameters and settings.

    Attributes:
        dense: The linear layer.
        norm: The norm.
        decoder: The decoder.
        bias: Another name of the decoder's bias, if it has one.
        table: The word embeddings, which serve as the decoder's weight where it has none of its own.
        activation: The setting with the name of the activation; empty if it is fixed.
        usual_activation: The activation where that is not stated.
        epsilon: The setting with the number that is added to the variance; empty if it is fixed.
        usual_epsilon: The number where that is not stated.
        biases_are_set: True if config.json says which parts have a bias; otherwise all have one.
    """

    dense: str
    norm: str
    decoder: str
    bias: str = ""
    table: str = "embeddings.word_embeddings.weight"
    activation: str = "hidden_act"
    usual_activation: str = "gelu"
    epsilon: str = "layer_norm_eps"
    usual_epsilon: float = 1e-12
    biases_are_set: bool = False

    def has_bias(self, setting: bool) -> bool:
        """True if a part of the head has a bias, by its setting."""
        return setting or not self.biases_are_set


_BERT = _Family(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions.bias",
)
_ROBERTA = _Family("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", activation="")

FAMILIES: Mapping[str, _Family] = {
    "albert": _Family(
        "predictions.dense",
        "predictions.LayerNorm",
        "predictions.decoder",
        "predictions.bias",
        usual_activation="gelu_new",
    ),
    "bert": _BERT,
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "deberta-v2": replace(_BERT, usual_epsilon=1e-7),
    "distilbert": _Family(
        "vocab_transform", "vocab_layer_norm", "vocab_projector", activation="activation", epsilon=""
    ),
    "electra": _Family(
        "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head", activation=""
    ),
    "ernie": _BERT,
    "gte": _ROBERTA,
    "modernbert": _Family(
        "head.dense",
        "head.norm",
        "decoder",
        table="embeddings.tok_embeddings.weight",
        activation="classifier_activation",
        epsilon="norm_eps",
        usual_epsilon=1e-5,
        biases_are_set=True,
    ),
    "mpnet": _ROBERTA,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""By the name of the architecture family; a new one is one entry."""


def read(folder: Path) -> MaskedLanguageModel:
    """Read the head's settings from the config.json of the transformer."""
    return pick(MaskedLanguageModel, read_config(folder / "config.json"))


def add(inputs: HeadInputs, settings: MaskedLanguageModel) -> HeadOutputs:
    """Add the head up to the decoder."""
    graph, tokens, (base, family) = inputs.graph, inputs.feature(TOKENS), _base(inputs)
    named = getattr(settings, family.activation) if family.activation else None
    epsilon = getattr(settings, family.epsilon) if family.epsilon else None
    with _weights(base) as weights:
        width = weights.matrix_shape(f"{family.dense}.weight")[0]
        dense = Linear(
            weights(f"{family.dense}.weight", width, tokens.width),
            weights(f"{family.dense}.bias", width) if family.has_bias(settings.classifier_bias) else None,
        )
        x = project(graph, flatten(graph, tokens.value, tokens.width), family.dense, dense)
        x = activation(graph, named or family.usual_activation, x)
        norm = _norm_name(family, weights)
        parts = ("weight", "bias") if family.has_bias(settings.norm_bias) else ("weight",)
        parameters = [graph.weight(f"{norm}.{part}", weights(f"{norm}.{part}", width)) for part in parts]
        x = layer_norm(graph, x, family.usual_epsilon if epsilon is None else epsilon, *parameters)
        digest = weights.digest()
    value = unflatten(graph, x, inputs.shape, width)
    return HeadOutputs({PREDICTIONS: Feature(value, width, per_token=True)}, digest)


def read_decoder(inputs: HeadInputs, width: int) -> tuple[Linear, str]:
    """Read the decoder, `[vocabulary, width]`, and the digest of its weights.

    A weight and a bias of its own go before those that it shares, as in transformers.

    Raises:
        ExportError: There are neither.
    """
    base, family = _base(inputs)
    settings = pick(MaskedLanguageModel, base.config)
    own, bias = f"{family.decoder}.weight", f"{family.decoder}.bias"
    with _weights(base) as weights:
        if own not in weights and not settings.tie_word_embeddings:
            raise ExportError(
                f"weights: tensor {own!r} is missing, but config.json has tie_word_embeddings false; get the model "
                "again"
            )
        rows = weights.matrix_shape(family.table)[0]
        matrix = weights(own if own in weights else family.table, rows, width)
        if bias not in weights and family.bias in weights:
            bias = family.bias
        values = weights(bias, rows) if family.has_bias(settings.decoder_bias) else None
        return Linear(matrix, values), weights.digest()


def _base(inputs: HeadInputs) -> tuple[Base, _Family]:
    """The transformer, and the head of its family."""
    base = inputs.base
    if base is None or base.family not in FAMILIES:
        found = "static embeddings" if base is None else base.family
        raise UnsupportedModelError(
            f"{inputs.where}: expected a transformer of {', '.join(FAMILIES)}, got {found}; its head is not supported"
        )
    return base, FAMILIES[base.family]


def _weights(base: Base) -> Weights:
    adapter = Adapter(base.folder, base.prefixes) if (base.folder / ADAPTER_CONFIG).is_file() else None
    return Weights(base.folder, base.prefixes, base.renames, adapter)


def _norm_name(family: _Family, weights: Weights) -> str:
    """The name of the norm, which is another one in repos of GTE with code of their own."""
    other = "lm_head.norm"
    return other if family.norm == _ROBERTA.norm and f"{other}.weight" in weights else family.norm


HEAD = Head(read, add)

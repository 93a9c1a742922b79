"""Sequence classification: from token embeddings to one logit per label, as the architectures of transformers have it.

The head is not in modules.json: its weights lie beside those of the encoder, and `config.json` describes it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt.types import LOGITS, TOKENS
from embedrt_export.graph.builder import INT64, GraphBuilder
from embedrt_export.heads.head import Base, Feature, Head, HeadInputs, HeadOutputs
from embedrt_export.heads.pooling import pool
from embedrt_export.layers.activations import activation
from embedrt_export.layers.inputs import flatten, unflatten
from embedrt_export.layers.linear import Linear, project
from embedrt_export.layers.norms import layer_norm
from embedrt_export.source.configs import pick, read_config
from embedrt_export.source.weights import Weights, quote

_CLASS = "ForSequenceClassification"
# More labels than any model has, and few enough for a manifest.
_MOST_LABELS = 100_000

Pooler = Literal["cls", "mean", "last"]
"""Choice of the token: the first one, the mean over all, or the last one whose id is not the padding id."""


@dataclass(frozen=True)
class SequenceClassification:
    """Keys of config.json that change the logits; null is the default of the architecture.

    `num_labels` is the length of `id2label`, where the config has no number.
    """

    num_labels: int
    hidden_act: str | None = None
    pad_token_id: int | None = None
    pooler_hidden_act: str | None = None
    classifier_pooling: str | None = None
    classifier_activation: str | None = None
    classifier_bias: bool | None = None
    norm_bias: bool | None = None
    norm_eps: float | None = None


@dataclass(frozen=True)
class Classifier:
    """Layers of one architecture: pooling, a linear layer with an activation, a norm, and the layer that makes logits.

    Attributes:
        pooling: The pooling over the tokens.
        dense: Name of the first linear layer; None is none.
        activation: Activation after it.
        bias: True if it has a bias.
        norm: Name of the layer normalization after the activation; None is none.
        norm_bias: True if that has a bias.
        epsilon: Added to the variance in it.
        output: Name of the last linear layer.
        output_bias: True if that has a bias.
        per_token: True if every token has logits, and the pooling is over them.
        padding_id: Tokens with this id are skipped by the pooling "last"; None skips padding alone.
    """

    pooling: Pooler = "cls"
    dense: str | None = None
    activation: str = "tanh"
    bias: bool = True
    norm: str | None = None
    norm_bias: bool = False
    epsilon: float = 1e-5
    output: str = "classifier"
    output_bias: bool = True
    per_token: bool = False
    padding_id: int | None = None


Choose = Callable[[SequenceClassification], Classifier]


def _always(classifier: Classifier) -> Choose:
    return lambda _: classifier


def _roformer(settings: SequenceClassification) -> Classifier:
    return dataclasses.replace(_DENSE_THEN_OUT, activation=settings.hidden_act or "gelu")


def _deberta(settings: SequenceClassification) -> Classifier:
    return Classifier(dense="pooler.dense", activation=settings.pooler_hidden_act or "gelu")


_MODERNBERT_POOLING: Mapping[str, Pooler] = {"cls": "cls", "mean": "mean"}
_EUROBERT_POOLING: Mapping[str, Pooler] = {"bos": "cls", "mean": "mean", "late": "mean"}


def _modernbert(settings: SequenceClassification) -> Classifier:
    return Classifier(
        pooling=_pooling(settings.classifier_pooling or "cls", _MODERNBERT_POOLING),
        dense="head.dense",
        activation=settings.classifier_activation or "gelu",
        bias=bool(settings.classifier_bias),
        norm="head.norm",
        norm_bias=bool(settings.norm_bias),
        epsilon=1e-5 if settings.norm_eps is None else settings.norm_eps,
    )


def _eurobert(settings: SequenceClassification) -> Classifier:
    name = settings.classifier_pooling or "late"
    pooling = _pooling(name, _EUROBERT_POOLING)
    return Classifier(pooling=pooling, dense="dense", activation="gelu", per_token=name == "late")


def _pooling(name: str, known: Mapping[str, Pooler]) -> Pooler:
    if name not in known:
        raise UnsupportedModelError(
            f"config.json: classifier_pooling {name!r} is not supported; supported: {', '.join(known)}"
        )
    return known[name]


def _decoder(default_padding_id: int | None) -> Choose:
    """The logits of the last token; padding is known by its id, not by the mask."""

    def choose(settings: SequenceClassification) -> Classifier:
        padding_id = default_padding_id if settings.pad_token_id is None else settings.pad_token_id
        return Classifier(pooling="last", output="score", output_bias=False, padding_id=padding_id)

    return choose


_POOLER = Classifier(dense="pooler.dense")
_DENSE_THEN_OUT = Classifier(dense="classifier.dense", output="classifier.out_proj")

CLASSIFIERS: dict[str, Choose] = {
    "albert": _always(Classifier(dense="pooler")),
    "bert": _always(_POOLER),
    "camembert": _always(_DENSE_THEN_OUT),
    "data2vec-text": _always(_DENSE_THEN_OUT),
    "deberta-v2": _deberta,
    "distilbert": _always(Classifier(dense="pre_classifier", activation="relu")),
    "electra": _always(dataclasses.replace(_DENSE_THEN_OUT, activation="gelu")),
    "ernie": _always(_POOLER),
    "eurobert": _eurobert,
    "gemma3_text": _decoder(0),
    "gte": _always(_POOLER),
    "jina_embeddings_v3": _always(_DENSE_THEN_OUT),
    "llama": _decoder(None),
    "megatron-bert": _always(_POOLER),
    "mistral": _decoder(None),
    "modernbert": _modernbert,
    "mpnet": _always(_DENSE_THEN_OUT),
    "nomic_bert": _always(_POOLER),
    "qwen2": _decoder(None),
    "qwen3": _decoder(None),
    "roberta": _always(_DENSE_THEN_OUT),
    "roberta-prelayernorm": _always(_DENSE_THEN_OUT),
    "roformer": _roformer,
    "xlm-roberta": _always(_DENSE_THEN_OUT),
    "xlm-roberta-xl": _always(_DENSE_THEN_OUT),
}
"""By the name of the family: from the keys of config.json to its layers."""


def read(folder: Path) -> SequenceClassification:
    """Read the keys from the config of the transformer.

    Raises:
        UnsupportedModelError: A value is not supported; the message names the key.
    """
    content = read_config(folder / "config.json")
    settings = pick(SequenceClassification, {**content, "num_labels": _labels(content)})
    if not 1 <= settings.num_labels <= _MOST_LABELS:
        raise UnsupportedModelError(f"config.json.num_labels: expected 1 to {_MOST_LABELS}, got {settings.num_labels}")
    return settings


def _labels(content: Mapping[str, Any]) -> Any:
    """Number of labels: one of a model that was saved without a head, and two where no key states another number."""
    if content.get("id2label") is not None:
        return len(content["id2label"])
    if content.get("num_labels") is not None:
        return content["num_labels"]
    names = content.get("architectures") or []
    return 2 if any(str(name).endswith(_CLASS) for name in names) else 1


def add(inputs: HeadInputs, settings: SequenceClassification) -> HeadOutputs:
    """Add the head of the encoder's family.

    Raises:
        UnsupportedModelError: The family has none, or a key of its config is not supported.
        ExportError: A tensor is missing, or one of the head is not used.
    """
    base = _base(inputs)
    if base.family not in CLASSIFIERS:
        raise UnsupportedModelError(
            f"sequence classification is not supported for the architecture {base.family!r}; supported: "
            f"{', '.join(CLASSIFIERS)}"
        )
    classifier = CLASSIFIERS[base.family](settings)
    with Weights(base.folder, base.prefixes, base.renames) as weights:
        logits = classify(inputs, classifier, settings.num_labels, weights)
        _require_all_used(weights, classifier)
        digest = weights.digest()
    return HeadOutputs({LOGITS: Feature(logits, settings.num_labels, per_token=False)}, digest)


def _base(inputs: HeadInputs) -> Base:
    assert inputs.base is not None  # noqa: S101 - this head is in no chain without a transformer
    return inputs.base


def classify(inputs: HeadInputs, classifier: Classifier, labels: int, weights: Weights) -> str:
    """Add the layers; returns the logits, float32 `[batch, labels]`."""
    graph, tokens = inputs.graph, inputs.feature(TOKENS)
    if not classifier.per_token:
        return _layers(graph, _pooled(inputs, tokens.value, classifier), tokens.width, classifier, labels, weights)
    by_token = _layers(graph, flatten(graph, tokens.value, tokens.width), tokens.width, classifier, labels, weights)
    return _pooled(inputs, unflatten(graph, by_token, inputs.shape, labels), classifier)


def _layers(graph: GraphBuilder, x: str, width: int, classifier: Classifier, labels: int, weights: Weights) -> str:
    """Add the layers for rows `[rows, width]`."""
    if classifier.dense is not None:
        x = project(graph, x, classifier.dense, _linear(weights, classifier.dense, width, width, bias=classifier.bias))
        x = activation(graph, classifier.activation, x)
    if classifier.norm is not None:
        parts = ("weight", "bias") if classifier.norm_bias else ("weight",)
        names = [f"{classifier.norm}.{part}" for part in parts]
        x = layer_norm(graph, x, classifier.epsilon, *(graph.weight(name, weights(name, width)) for name in names))
    last = _linear(weights, classifier.output, width, labels, bias=classifier.output_bias)
    return project(graph, x, classifier.output, last)


def _linear(weights: Weights, name: str, inputs: int, outputs: int, *, bias: bool) -> Linear:
    weight = weights(f"{name}.weight", outputs, inputs)
    return Linear(weight, weights(f"{name}.bias", outputs) if bias else None)


def _pooled(inputs: HeadInputs, tokens: str, classifier: Classifier) -> str:
    """Add the pooling over `[batch, sequence, width]`; in a packed graph, over `[tokens, width]`."""
    if classifier.pooling != "last":
        return pool(inputs.graph, (classifier.pooling,), tokens, inputs.masks)
    if classifier.padding_id is None:
        return pool(inputs.graph, ("lasttoken",), tokens, inputs.masks)
    if inputs.graph.is_packed:
        return _packed_last(inputs, tokens, classifier.padding_id)
    return _last(inputs, tokens, classifier.padding_id)


def _last(inputs: HeadInputs, tokens: str, padding_id: int) -> str:
    """Add the last token of each row that is neither padding nor has its id; the first one if there is none."""
    graph, mask = inputs.graph, inputs.masks.attention
    other = graph.op("Not", graph.op("Equal", _base(inputs).inputs.input_ids, graph.index(padding_id)))
    length = graph.op("Squeeze", graph.op("Shape", mask, start=1), graph.ints(0))
    places = graph.op("Range", graph.index(0), length, graph.index(1))
    places = graph.op("Mul", graph.op("Mul", graph.op("Cast", other, to=INT64), mask), places)
    last = graph.op("ReduceMax", places, graph.ints(1), keepdims=1)
    return graph.op("GatherND", graph.to_float(tokens), last, batch_dims=1)


def _packed_last(inputs: HeadInputs, tokens: str, padding_id: int) -> str:
    """The same over a stream of tokens, in which the last token of a text has the largest row."""
    graph = inputs.graph
    rows, first = graph.packed_input("pooled_index"), graph.packed_input("first_rows")
    ids = graph.op("Cast", graph.op("Gather", _base(inputs).inputs.input_ids, rows), to=INT64)
    first = graph.op("Unsqueeze", first, graph.ints(1))
    rows = graph.op("Where", graph.op("Equal", ids, graph.index(padding_id)), first, rows)
    largest, _ = graph.ops("TopK", 2, rows, graph.ints(1), axis=1, sorted=0)  # ReduceMax needs cuDNN
    return graph.to_float(graph.op("Gather", tokens, graph.op("Squeeze", largest, graph.ints(1))))


def _require_all_used(weights: Weights, classifier: Classifier) -> None:
    """Require that the graph uses all tensors of the head's layers: otherwise the head is another one."""
    names = (name for name in (classifier.dense, classifier.norm, classifier.output) if name is not None)
    if unused := weights.unused(tuple(f"{name.partition('.')[0]}." for name in names)):
        raise UnsupportedModelError(
            f"weights: the classification head of this architecture has no {', '.join(map(quote, unused[:5]))}"
        )


HEAD = Head(read, add)

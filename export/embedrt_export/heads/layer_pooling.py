"""Token embeddings as a weighted mean over the hidden states of several layers."""

import logging
from dataclasses import dataclass
from pathlib import Path

from embedrt.errors import UnsupportedModelError
from embedrt.types import TOKENS
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.heads.head import Feature, Head, HeadInputs, HeadOutputs, config_name, read_pooling_config
from embedrt_export.layers.inputs import unflatten
from embedrt_export.source.configs import strict
from embedrt_export.source.weights import Weights

logger = logging.getLogger("embedrt.export")


@dataclass(frozen=True)
class WeightedLayerPooling:
    """Settings of a WeightedLayerPooling module."""

    embedding_dimension: int
    num_hidden_layers: int = 12
    layer_start: int = 4


def read(folder: Path) -> WeightedLayerPooling:
    """Read the module's config."""
    return strict(WeightedLayerPooling, read_pooling_config(folder), config_name(folder))


def weighted_sum(graph: GraphBuilder, states: list[str], weights: list[float]) -> str:
    """Add the sum of equally shaped values, each times its weight."""
    terms = [graph.op("Mul", x, graph.scalar(weight)) for x, weight in zip(states, weights, strict=True)]
    return terms[0] if len(terms) == 1 else graph.op("Sum", *terms)


def add(inputs: HeadInputs, settings: WeightedLayerPooling) -> HeadOutputs:
    """Add the mean over the layers from `layer_start` on."""
    tokens = inputs.feature(TOKENS)
    if inputs.states is None:
        raise UnsupportedModelError(
            f"{inputs.where}: it needs the hidden states of all layers, but an ONNX backbone only returns the last; "
            "use via='native'"
        )
    if not inputs.states:
        # sentence-transformers leaves the token embeddings unchanged if the config does not request all states.
        logger.warning("%s: it has no effect, as config.json does not set output_hidden_states", inputs.where)
        return HeadOutputs({})
    inputs.require_width(settings.embedding_dimension, tokens.width)
    states = inputs.states[settings.layer_start :]
    with Weights(inputs.folder) as weights:
        parts = weights("layer_weights", len(states)).astype(float)
        digest = weights.digest()
    mean = weighted_sum(inputs.graph, states, (parts / parts.sum()).tolist())
    value = unflatten(inputs.graph, mean, inputs.shape, tokens.width)
    return HeadOutputs({TOKENS: Feature(value, tokens.width, per_token=True)}, digest)


HEAD = Head(read, add)

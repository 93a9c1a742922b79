"""Layer normalization of the sentence embedding."""

from dataclasses import dataclass
from functools import partial

from embedrt.types import SENTENCE
from embedrt_export.heads.head import Feature, Head, HeadInputs, HeadOutputs, read_settings
from embedrt_export.layers.norms import layer_norm
from embedrt_export.source.weights import Weights

_EPSILON = 1e-5  # torch's default, which LayerNorm modules use


@dataclass(frozen=True)
class LayerNorm:
    """Settings of a LayerNorm module."""

    dimension: int


def add(inputs: HeadInputs, settings: LayerNorm) -> HeadOutputs:
    """Add the normalization."""
    graph, x = inputs.graph, inputs.feature(SENTENCE)
    inputs.require_width(settings.dimension, x.width)
    with Weights(inputs.folder) as weights:
        weight, bias = (
            graph.weight(f"{inputs.path}.norm.{name}", weights(f"norm.{name}", x.width)) for name in ("weight", "bias")
        )
        digest = weights.digest()
    y = layer_norm(graph, x.value, _EPSILON, weight, bias)
    return HeadOutputs({SENTENCE: Feature(y, x.width, per_token=False)}, digest)


HEAD = Head(partial(read_settings, LayerNorm), add)

"""SparseAutoEncoder (arXiv:2503.01776): a wide linear layer of which the largest values of a text are kept.

The graph returns all values that are not negative; the runtime keeps the largest, as a call may ask for more.
"""

from dataclasses import dataclass
from functools import partial

from embedrt.types import SENTENCE, SPARSE
from embedrt_export.heads.head import Feature, Head, HeadInputs, HeadOutputs, read_settings
from embedrt_export.layers.linear import Linear, project
from embedrt_export.source.weights import Weights

_EPSILON = 1e-5  # added to the standard deviation
KIND = "SparseAutoEncoder"


@dataclass(frozen=True)
class SparseAutoEncoder:
    """Settings of a SparseAutoEncoder module; `k_aux` and `dead_threshold` are for the training."""

    input_dim: int
    hidden_dim: int = 512
    k: int = 8
    k_aux: int = 512
    normalize: bool = False
    dead_threshold: int = 30


def add(inputs: HeadInputs, settings: SparseAutoEncoder) -> HeadOutputs:
    """Add the layer."""
    graph, x = inputs.graph, inputs.feature(SENTENCE)
    inputs.require_width(settings.input_dim, x.width)
    value = x.value
    if settings.normalize:
        value = graph.op("Sub", value, graph.op("ReduceMean", value, graph.ints(-1), keepdims=1))
        squares = graph.op("ReduceSum", graph.op("Mul", value, value), graph.ints(-1), keepdims=1)
        deviation = graph.op("Sqrt", graph.op("Div", squares, graph.scalar(float(x.width - 1))))
        value = graph.op("Div", value, graph.op("Add", deviation, graph.scalar(_EPSILON)))
    with Weights(inputs.folder) as weights:
        centered = graph.op("Sub", value, graph.weight(f"{inputs.path}.pre_bias", weights("pre_bias", x.width)))
        matrix = weights("encoder.weight", settings.hidden_dim, x.width)
        layer = Linear(matrix, weights("latent_bias", settings.hidden_dim))
        latents = graph.op("Relu", project(graph, centered, f"{inputs.path}.encoder", layer))
        digest = weights.digest()
    return HeadOutputs({SPARSE: Feature(latents, settings.hidden_dim, per_token=False)}, digest)


HEAD = Head(partial(read_settings, SparseAutoEncoder), add)

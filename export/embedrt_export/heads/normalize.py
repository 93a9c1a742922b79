"""L2 normalization."""

import dataclasses
from dataclasses import dataclass
from functools import partial

from embedrt.types import SENTENCE
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.heads.head import Head, HeadInputs, HeadOutputs, read_optional_settings

_SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize clamps the norm to it


@dataclass(frozen=True)
class Normalize:
    """Settings of a Normalize module."""

    module_input_name: str = SENTENCE
    module_output_name: str | None = None


def normalize(graph: GraphBuilder, x: str) -> str:
    """Add `x / max(||x||, 1e-12)` over the last axis."""
    if graph.draft:  # ReduceL2 needs cuDNN
        return graph.op("LpNormalization", graph.to_float(x), axis=-1, p=2)
    norm = graph.op("ReduceL2", x, graph.ints(-1), keepdims=1)
    return graph.op("Div", x, graph.op("Max", norm, graph.scalar(_SMALLEST_NORM)))


def add(inputs: HeadInputs, settings: Normalize) -> HeadOutputs:
    """Add the normalization of one feature."""
    x = inputs.feature(settings.module_input_name)
    name = settings.module_output_name or settings.module_input_name
    return HeadOutputs({name: dataclasses.replace(x, value=normalize(inputs.graph, x.value), normalized=True)})


HEAD = Head(partial(read_optional_settings, Normalize), add)

"""Scopes for graphs whose layers have no parameters in a model's files."""

import numpy as np
from numpy.typing import NDArray

from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.inputs import text_inputs
from embedrt_export.layers.scope import Scope


class NoParameters:
    """A model without tensors."""

    def __call__(self, name: str, *shape: int) -> NDArray[np.float32]:
        raise AssertionError(f"{name} {shape}: this graph has no model")

    def __contains__(self, name: str) -> bool:
        return False


def scope_of(graph: GraphBuilder) -> Scope:
    """The scope of a graph, with its inputs declared."""
    return Scope(graph, NoParameters(), text_inputs(graph, token_type_ids=False))

"""L2 normalization."""

from embedrt_export.graph.builder import GraphBuilder

_SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize clamps the norm to it


def normalize(graph: GraphBuilder, x: str) -> str:
    """Add `x / max(||x||, 1e-12)` over the last axis."""
    norm = graph.op("ReduceL2", x, graph.ints(-1), keepdims=1)
    return graph.op("Div", x, graph.op("Max", norm, graph.scalar(_SMALLEST_NORM)))

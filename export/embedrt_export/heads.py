"""Pooling and normalization: from `token_embeddings` to `sentence_embedding`."""

from collections.abc import Callable

import numpy as np

from embedrt_export.graph import BOOL, FLOAT, INT32, GraphBuilder

_SMALLEST_COUNT = 1e-9  # sentence-transformers clamps the token count of a mean to it
_SMALLEST_NORM = 1e-12  # and torch.nn.functional.normalize the norm to this


def pool(graph: GraphBuilder, modes: tuple[str, ...], token_embeddings: str, attention_mask: str) -> str:
    """Pools over the tokens, leaving padding out.

    Args:
        graph: The graph.
        modes: Among "cls", "max" and "mean"; several are concatenated.
        token_embeddings: `[batch, sequence, hidden]`.
        attention_mask: int64 `[batch, sequence]`.

    Returns:
        `[batch, hidden x len(modes)]`.
    """
    pooled = [POOLERS[mode](graph, token_embeddings, attention_mask) for mode in modes]
    return pooled[0] if len(pooled) == 1 else graph.op("Concat", *pooled, axis=-1)


def normalize(graph: GraphBuilder, x: str) -> str:
    """`x / max(||x||, 1e-12)` over the last axis."""
    norm = graph.op("ReduceL2", x, graph.ints(-1), keepdims=1)
    return graph.op("Div", x, graph.op("Max", norm, graph.scalar(_SMALLEST_NORM)))


def _cls(graph: GraphBuilder, token_embeddings: str, attention_mask: str) -> str:
    """The first token that is not padding."""
    first = graph.op("ArgMax", graph.op("Cast", attention_mask, to=INT32), axis=1, keepdims=1)
    return graph.op("GatherND", token_embeddings, first, batch_dims=1)


def _max(graph: GraphBuilder, token_embeddings: str, attention_mask: str) -> str:
    """The largest value of each coordinate."""
    is_token = graph.op("Unsqueeze", graph.op("Cast", attention_mask, to=BOOL), graph.ints(2))
    lowest = graph.scalar(float(np.finfo(np.float32).min))
    return graph.op("ReduceMax", graph.op("Where", is_token, token_embeddings, lowest), graph.ints(1), keepdims=0)


def _mean(graph: GraphBuilder, token_embeddings: str, attention_mask: str) -> str:
    """The mean; the sum over tokens is one product of mask and embeddings."""
    mask = graph.op("Cast", attention_mask, to=FLOAT)
    total = graph.op("MatMul", graph.op("Unsqueeze", mask, graph.ints(1)), token_embeddings)
    count = graph.op("ReduceSum", mask, graph.ints(1), keepdims=1)
    count = graph.op("Max", count, graph.scalar(_SMALLEST_COUNT))
    return graph.op("Div", graph.op("Squeeze", total, graph.ints(1)), count)


POOLERS: dict[str, Callable[[GraphBuilder, str, str], str]] = {"cls": _cls, "max": _max, "mean": _mean}

"""Pooling over tokens: from `token_embeddings` to `sentence_embedding`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embedrt_export.graph.builder import BOOL, FLOAT, INT32, GraphBuilder

_BLOCK = 128  # tokens that are summed before the blocks are
_SMALLEST_COUNT = 1e-9  # sentence-transformers clamps the token count of a mean to it


@dataclass(frozen=True)
class Masks:
    """Masks of the tokens that count.

    Attributes:
        attention: int64 `[batch, sequence]`: 1 for tokens, 0 for padding.
        pooling: Likewise, with 0 also for tokens that are left out of the pooling.
        long: True if rows may be so long that a sum over them needs care: engines add one number after the other, and
            over thousands of tokens the rounding errors grow beyond those of torch, which adds pairwise.
    """

    attention: str
    pooling: str
    long: bool = False


def pool(graph: GraphBuilder, modes: tuple[str, ...], token_embeddings: str, masks: Masks) -> str:
    """Pool over the tokens, without padding.

    Args:
        graph: The graph.
        modes: Keys of `POOLERS`; several are concatenated.
        token_embeddings: `[batch, sequence, hidden]`.
        masks: The tokens that count.

    Returns:
        `[batch, hidden x len(modes)]`.
    """
    pooled = [POOLERS[mode](graph, token_embeddings, masks) for mode in modes]
    return pooled[0] if len(pooled) == 1 else graph.op("Concat", *pooled, axis=-1)


def _first(graph: GraphBuilder, mask: str) -> str:
    """Add the position of the first 1 in each row, or 0 without any: int64 `[batch, 1]`."""
    return graph.op("ArgMax", graph.op("Cast", mask, to=INT32), axis=1, keepdims=1)


def _cls(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The first token that counts."""
    return graph.op("GatherND", token_embeddings, _first(graph, masks.pooling), batch_dims=1)


def _max(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The largest value of each coordinate."""
    counts = graph.op("Unsqueeze", graph.op("Cast", masks.pooling, to=BOOL), graph.ints(2))
    lowest = graph.scalar(float(np.finfo(np.float32).min))
    return graph.op("ReduceMax", graph.op("Where", counts, token_embeddings, lowest), graph.ints(1), keepdims=0)


def _mean(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The sum over the tokens, divided by their number."""
    weights = graph.op("Cast", masks.pooling, to=FLOAT)
    return graph.op("Div", _total(graph, token_embeddings, weights, masks), _count(graph, weights))


def _mean_sqrt_len(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The sum over the tokens, divided by the root of their number."""
    weights = graph.op("Cast", masks.pooling, to=FLOAT)
    total = _total(graph, token_embeddings, weights, masks)
    return graph.op("Div", total, graph.op("Sqrt", _count(graph, weights)))


def _weighted_mean(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The mean with weights 1, 2, 3, ... from the first token on, whether it counts or is left out."""
    length = graph.op("Squeeze", graph.op("Shape", masks.attention, start=1), graph.ints(0))
    position = graph.op("Range", graph.index(0), length, graph.index(1))
    position = graph.op("Add", graph.op("Sub", position, _first(graph, masks.attention)), graph.index(1))
    weights = graph.op("Cast", graph.op("Mul", position, masks.pooling), to=FLOAT)
    return graph.op("Div", _total(graph, token_embeddings, weights, masks), _count(graph, weights))


def _last_token(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The last token that counts, or zeros without any."""
    width = graph.op("Shape", masks.pooling, start=1)
    last = graph.op("Sub", width, graph.index(1))
    backwards = graph.op("Slice", masks.pooling, last, graph.ints(-(2**31)), graph.ints(1), graph.ints(-1))
    position = graph.op("Sub", last, _first(graph, backwards))
    counts = graph.op("Cast", graph.op("GatherND", masks.pooling, position, batch_dims=1), to=FLOAT)
    found = graph.op("GatherND", token_embeddings, position, batch_dims=1)
    return graph.op("Mul", found, graph.op("Unsqueeze", counts, graph.ints(1)))


def _total(graph: GraphBuilder, token_embeddings: str, weights: str, masks: Masks) -> str:
    """Add the weighted sum over tokens, as one matmul, or as the sum over blocks of tokens."""
    if not masks.long:
        total = graph.op("MatMul", graph.op("Unsqueeze", weights, graph.ints(1)), token_embeddings)
        return graph.op("Squeeze", total, graph.ints(1))
    length = graph.op("Shape", weights, start=1)
    blocks = graph.op("Add", graph.op("Div", length, graph.ints(_BLOCK)), graph.ints(1))
    missing = graph.op("Sub", graph.op("Mul", blocks, graph.ints(_BLOCK)), length)
    behind = graph.op("Concat", graph.ints(0), missing, axis=0)
    weights = graph.op("Pad", weights, behind, graph.scalar(0.0), graph.ints(1))
    tokens = graph.op("Pad", token_embeddings, behind, graph.scalar(0.0), graph.ints(1))
    shape, width = graph.op("Shape", weights, end=1), graph.op("Shape", tokens, start=2)
    weights = graph.op("Reshape", weights, graph.op("Concat", shape, blocks, graph.ints(1, _BLOCK), axis=0))
    tokens = graph.op("Reshape", tokens, graph.op("Concat", shape, blocks, graph.ints(_BLOCK), width, axis=0))
    return graph.op("ReduceSum", graph.op("MatMul", weights, tokens), graph.ints(1, 2), keepdims=0)


def _count(graph: GraphBuilder, weights: str) -> str:
    count = graph.op("ReduceSum", weights, graph.ints(1), keepdims=1)
    return graph.op("Max", count, graph.scalar(_SMALLEST_COUNT))


POOLERS: dict[str, Callable[[GraphBuilder, str, Masks], str]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
"""By the mode of a Pooling module."""

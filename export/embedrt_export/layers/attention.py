"""Attention: who may look at whom, rotary positions, and the product of scores and values.

Queries, keys and values are `[batch, sequence, heads, size]`.
"""

import numpy as np

from embedrt_export.graph.builder import BOOL, GraphBuilder
from embedrt_export.layers.linear import TextInputs

# Added to the attention scores of what may not be seen. Finite, so that a row of nothing but padding gives no NaN.
MASKED = float(np.finfo(np.float32).min)


def attention_bias(
    graph: GraphBuilder, inputs: TextInputs, *, before: int | None = None, after: int | None = None
) -> str:
    """What to add to attention scores: 0 where a token may be seen, else the lowest float.

    Padding is never seen. `before` and `after` say how many tokens back and ahead a token sees; None is all. So a
    causal model has `after=0`, a sliding window of `n` tokens that includes the token itself `before=n - 1`.

    Returns:
        float32 `[batch, 1, 1, sequence]`, or `[batch, 1, sequence, sequence]` with a limit.
    """
    seen = graph.op("Unsqueeze", graph.op("Cast", inputs.attention_mask, to=BOOL), graph.ints(1, 2))
    if before is not None or after is not None:
        place = token_positions(graph, inputs)
        keys, queries = (graph.op("Unsqueeze", place, graph.ints(axis)) for axis in (0, 1))
        ahead = graph.op("Sub", keys, queries)
        if after is not None:
            seen = graph.op("And", seen, graph.op("LessOrEqual", ahead, graph.index(after)))
        if before is not None:
            seen = graph.op("And", seen, graph.op("GreaterOrEqual", ahead, graph.index(-before)))
    return graph.op("Where", seen, graph.scalar(0.0), graph.scalar(MASKED))


def token_positions(graph: GraphBuilder, inputs: TextInputs) -> str:
    """0, 1, ... up to the length of the batch: int64 `[sequence]`."""
    length = graph.op("Squeeze", inputs.sequence, graph.ints(0))
    return graph.op("Range", graph.index(0), length, graph.index(1))


def split_heads(graph: GraphBuilder, x: str, inputs: TextInputs, heads: int, size: int) -> str:
    """`[tokens, heads x size]` to `[batch, sequence, heads, size]`."""
    return graph.op("Reshape", x, graph.op("Concat", inputs.shape, graph.ints(heads, size), axis=0))


def attend(
    graph: GraphBuilder, query: str, key: str, value: str, bias: str, *, heads: int, size: int, groups: int = 1
) -> str:
    """Softmax attention from plain operators.

    Args:
        graph: The graph.
        query: `[batch, sequence, heads, size]`, already scaled, as a rule by `size ** -0.5`.
        key: `[batch, sequence, heads / groups, size]`.
        value: `[batch, sequence, heads / groups, size]`.
        bias: Added to the scores; broadcasts to `[batch, heads, sequence, sequence]`.
        heads: Number of query heads.
        size: Width of one head.
        groups: How many neighbouring query heads share one head of keys and values.

    Returns:
        `[tokens, heads x size]`.
    """
    if groups > 1:
        key, value = (_repeat(graph, x, heads // groups, groups, size) for x in (key, value))
    q = graph.op("Transpose", query, perm=[0, 2, 1, 3])
    k = graph.op("Transpose", key, perm=[0, 2, 3, 1])
    v = graph.op("Transpose", value, perm=[0, 2, 1, 3])
    scores = graph.op("Softmax", graph.op("Add", graph.op("MatMul", q, k), bias), axis=-1)
    context = graph.op("Transpose", graph.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    return graph.op("Reshape", context, graph.ints(-1, heads * size))


def _repeat(graph: GraphBuilder, x: str, heads: int, times: int, size: int) -> str:
    """Each head `times` times in a row: to `[batch, sequence, heads x times, size]`."""
    repeated = graph.op("Expand", graph.op("Unsqueeze", x, graph.ints(3)), graph.ints(1, 1, 1, times, 1))
    return graph.op("Reshape", repeated, graph.ints(0, 0, heads * times, size))

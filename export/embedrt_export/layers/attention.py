"""Softmax attention and its masks.

Queries, keys and values are `[batch, sequence, heads, size]`; in a packed graph, `[tokens, heads, size]`.
"""

from dataclasses import dataclass

import numpy as np

from embedrt_export.graph.builder import BOOL, INT64
from embedrt_export.layers.scope import Scope

# Added to the scores of masked tokens. Finite, so that a row of nothing but padding gives no NaN.
MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class AttentionWindow:
    """The tokens that a token attends to.

    A causal model has `after=0`; a sliding window of `n` tokens that includes the token itself has `before=n - 1`.

    Attributes:
        before: Number of tokens before it; None is all.
        after: Number of tokens after it; None is all.
    """

    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Heads:
    """Attention heads.

    Attributes:
        count: Number of query heads.
        size: Width of one head.
        groups: Number of neighboring query heads that share one head of keys and values.
    """

    count: int
    size: int
    groups: int = 1


@dataclass(frozen=True)
class AttentionBias:
    """Term that is added to the attention scores.

    Attributes:
        term: Its value: 0 for tokens in the window, the lowest float for all others and for padding; and what else is
            added. float32, broadcasts to `[batch, heads, sequence, sequence]`. Empty in a packed graph.
        window: The tokens that a token attends to.
        relative: The part that depends on the offset of two tokens, float32 `[1, heads, sequence, sequence]`, if any.
    """

    term: str
    window: AttentionWindow = AttentionWindow()
    relative: str | None = None


def attention_bias(
    scope: Scope, window: AttentionWindow = AttentionWindow(), relative: str | None = None
) -> AttentionBias:
    """Add the attention mask as a term of the scores, and to it a bias by offset.

    Args:
        scope: The model.
        window: The tokens that a token attends to.
        relative: float32 `[1, heads, sequence, sequence]`, such as `relative.bucket_bias` adds.
    """
    graph = scope.graph
    if graph.is_packed:
        return AttentionBias("", window, relative)
    mask = _mask(scope, window)
    return AttentionBias(mask if relative is None else graph.op("Add", relative, mask), window, relative)


def _mask(scope: Scope, window: AttentionWindow) -> str:
    """Add 0 or `MASKED`, float32 `[batch, 1, 1, sequence]`, or `[batch, 1, sequence, sequence]` with a window."""
    graph = scope.graph
    visible = graph.op("Unsqueeze", graph.op("Cast", scope.inputs.attention_mask, to=BOOL), graph.ints(1, 2))
    if window != AttentionWindow():
        positions = token_positions(scope)
        keys, queries = (graph.op("Unsqueeze", positions, graph.ints(axis)) for axis in (0, 1))
        ahead = graph.op("Sub", keys, queries)
        if window.after is not None:
            visible = graph.op("And", visible, graph.op("LessOrEqual", ahead, graph.index(window.after)))
        if window.before is not None:
            visible = graph.op("And", visible, graph.op("GreaterOrEqual", ahead, graph.index(-window.before)))
    return graph.op("Where", visible, graph.scalar(0.0), graph.scalar(MASKED))


def token_positions(scope: Scope) -> str:
    """Add the positions 0, 1, ... up to the length of the batch: int64 `[sequence]`."""
    graph = scope.graph
    if graph.is_packed:
        return graph.op("Cast", graph.packed_input("offsets"), to=INT64)
    length = graph.op("Squeeze", scope.inputs.sequence, graph.ints(0))
    return graph.op("Range", graph.index(0), length, graph.index(1))


def split_heads(scope: Scope, x: str, heads: int, size: int) -> str:
    """Reshape `[tokens, heads x size]` to `[batch, sequence, heads, size]`."""
    if scope.graph.is_packed:
        return scope.graph.draft_op("Heads", x, heads=heads, size=size)
    return scope.unflatten(x, heads, size)


def attend(scope: Scope, query: str, key: str, value: str, bias: AttentionBias, heads: Heads) -> str:
    """Add softmax attention: from plain operators, or as one operator in a packed graph.

    Args:
        scope: The model.
        query: `[batch, sequence, heads, size]`, already scaled, as a rule by `size ** -0.5`.
        key: `[batch, sequence, heads / groups, size]`.
        value: `[batch, sequence, heads / groups, size]`.
        bias: Added to the scores.
        heads: The heads; `size` is that of the values.

    Returns:
        `[tokens, heads x size]`.
    """
    graph = scope.graph
    if graph.is_packed:
        window = {"before": bias.window.before, "after": bias.window.after}
        return graph.draft_op(
            "Attend",
            query,
            key,
            value,
            *filter(None, [bias.relative]),
            heads=heads.count,
            size=heads.size,
            groups=heads.groups,
            **{name: width for name, width in window.items() if width is not None},
        )
    if heads.groups > 1:
        key, value = (_repeat(scope, x, heads) for x in (key, value))
    q = graph.op("Transpose", query, perm=[0, 2, 1, 3])
    k = graph.op("Transpose", key, perm=[0, 2, 3, 1])
    v = graph.op("Transpose", value, perm=[0, 2, 1, 3])
    scores = graph.op("Softmax", graph.op("Add", graph.op("MatMul", q, k), bias.term), axis=-1)
    context = graph.op("Transpose", graph.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    return graph.op("Reshape", context, graph.ints(-1, heads.count * heads.size))


def _repeat(scope: Scope, x: str, heads: Heads) -> str:
    """Repeat each head of keys or values for its group: to `[batch, sequence, heads, size]`."""
    graph = scope.graph
    repeated = graph.op("Expand", graph.op("Unsqueeze", x, graph.ints(3)), graph.ints(1, 1, 1, heads.groups, 1))
    return graph.op("Reshape", repeated, graph.ints(0, 0, heads.count, heads.size))

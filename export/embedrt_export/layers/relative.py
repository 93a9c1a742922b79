"""Attention biases by the offset between two tokens, in buckets (the scheme of T5, arXiv:1910.10683)."""

import numpy as np
from numpy.typing import NDArray

from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import token_positions
from embedrt_export.layers.linear import TextInputs


def bucket(offset: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """The bucket of each offset `key - query`.

    Half of the buckets are for keys before and half for keys after the query. Of each half, the first part holds one
    offset each and the rest ever wider spans, logarithmically up to `farthest`.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(farthest / exact)
    )
    wide = np.minimum(exact + (growth * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, wide)


def bucket_bias(graph: GraphBuilder, table: NDArray[np.float32], name: str, inputs: TextInputs, farthest: int) -> str:
    """Bias by offset from a `table` `[buckets, heads]`: float32 `[1, heads, sequence, sequence]`."""
    by_offset = table[bucket(np.arange(-farthest, farthest + 1), len(table), farthest)].T
    values = graph.weight(f"{name}.by_offset", by_offset)
    place = token_positions(graph, inputs)
    offset = graph.op("Sub", graph.op("Unsqueeze", place, graph.ints(0)), graph.op("Unsqueeze", place, graph.ints(1)))
    return graph.op("Unsqueeze", graph.op("Gather", values, _cut(graph, offset, farthest), axis=1), graph.ints(0))


def pick_offsets(graph: GraphBuilder, scores: str, at: NDArray[np.int64], inputs: TextInputs) -> str:
    """Of each token's row of `scores`, the value that belongs to the offset from it to each token.

    Rows are laid out by offset, from `1 - sequence` on, `2 x sequence` values each. Read as rows that are one value
    shorter, they begin one offset further each, so that columns become tokens: no index for each pair.

    Args:
        graph: The graph.
        scores: `[batch, heads, sequence, values]`.
        at: Which of the values belongs to the offsets from -n to n; what is farther counts as n.
        inputs: The graph's inputs.

    Returns:
        float32 `[batch, heads, sequence, sequence]`.
    """
    one, two, length = graph.ints(1), graph.ints(2), inputs.sequence
    count = graph.op("Squeeze", graph.op("Mul", length, two), graph.ints(0))
    before = graph.op("Sub", length, one)
    offset = graph.op("Sub", graph.op("Range", graph.index(0), count, graph.index(1)), before)
    chosen = graph.op("Gather", graph.weight(f"{scores}.at", at), _cut(graph, offset, len(at) // 2))
    flat = graph.op("Reshape", graph.op("Gather", scores, chosen, axis=3), graph.ints(0, 0, -1))
    shorter = graph.op("Sub", graph.op("Mul", length, two), one)
    end = graph.op("Add", before, graph.op("Mul", length, shorter))
    rows = graph.op("Slice", flat, before, end, two)
    shape = graph.op("Concat", graph.ints(0, 0), length, shorter, axis=0)
    return graph.op("Slice", graph.op("Reshape", rows, shape), graph.ints(0), length, graph.ints(3))


def _cut(graph: GraphBuilder, offset: str, farthest: int) -> str:
    """Offsets from -n to n as 0 to 2n, what is farther as n."""
    cut = graph.op("Clip", offset, graph.index(-farthest), graph.index(farthest))
    return graph.op("Add", cut, graph.index(farthest))

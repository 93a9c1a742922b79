"""Relative position biases: attention biases by the offset of two tokens, in buckets (T5, arXiv:1910.10683)."""

import numpy as np
from numpy.typing import NDArray

from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import token_positions
from embedrt_export.layers.scope import Scope


def bucket(offset: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """Bucket of each offset `key - query`.

    Half of the buckets are for keys before and half for keys after the query. The first part of each half has one
    bucket per offset; the buckets of the second part widen logarithmically up to `farthest`.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(farthest / exact)
    )
    wide = np.minimum(exact + (growth * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, wide)


def bucket_bias(scope: Scope, table: NDArray[np.float32], name: str, farthest: int) -> str:
    """Add the bias of every offset, from a `table` `[buckets, heads]`: float32 `[1, heads, sequence, sequence]`."""
    graph = scope.graph
    by_offset = table[bucket(np.arange(-farthest, farthest + 1), len(table), farthest)].T
    values = scope.add(f"{name}.by_offset", by_offset)
    positions = token_positions(scope)
    keys, queries = (graph.op("Unsqueeze", positions, graph.ints(axis)) for axis in (0, 1))
    index = _clip(graph, graph.op("Sub", keys, queries), farthest)
    return graph.op("Unsqueeze", graph.op("Gather", values, index, axis=1), graph.ints(0))


def pick_offsets(scope: Scope, scores: str, columns: NDArray[np.int64]) -> str:
    """Pick from each token's row of `scores` the value of the offset from it to each token.

    Rows are laid out by offset, from `1 - sequence` on, `2 x sequence` values each. Read as rows that are one value
    shorter, each begins one offset further, so that columns become tokens, without an index for each pair. The first
    `sequence` values of each shorter row are kept. The offsets of three tokens, read from the third value on:

        -2 -1  0  1  2  3          0  1  2 |  3 -2
        -2 -1  0  1  2  3   ->    -1  0  1 |  2  3
        -2 -1  0  1  2  3         -2 -1  0 |  1  2

    Args:
        scope: The graph and its inputs.
        scores: `[batch, heads, sequence, values]`.
        columns: Column of `scores` for each offset from -n to n; farther offsets count as n.

    Returns:
        float32 `[batch, heads, sequence, sequence]`.
    """
    graph, length = scope.graph, scope.inputs.sequence
    one, two = graph.ints(1), graph.ints(2)
    count = graph.op("Squeeze", graph.op("Mul", length, two), graph.ints(0))
    before = graph.op("Sub", length, one)
    offset = graph.op("Sub", graph.op("Range", graph.index(0), count, graph.index(1)), before)
    table = graph.weight(f"{scores}.at", columns)
    chosen = graph.op("Gather", table, _clip(graph, offset, len(columns) // 2))
    flat = graph.op("Reshape", graph.op("Gather", scores, chosen, axis=3), graph.ints(0, 0, -1))
    shorter = graph.op("Sub", graph.op("Mul", length, two), one)
    end = graph.op("Add", before, graph.op("Mul", length, shorter))
    rows = graph.op("Slice", flat, before, end, two)
    shape = graph.op("Concat", graph.ints(0, 0), length, shorter, axis=0)
    return graph.op("Slice", graph.op("Reshape", rows, shape), graph.ints(0), length, graph.ints(3))


def _clip(graph: GraphBuilder, offset: str, farthest: int) -> str:
    """Map offsets from -n to n to indexes from 0 to 2n; farther ones count as n."""
    if graph.is_packed:  # Clip of integers runs on the CPU alone
        clipped = graph.op("Max", graph.op("Min", offset, graph.index(farthest)), graph.index(-farthest))
        return graph.op("Add", clipped, graph.index(farthest))
    clipped = graph.op("Clip", offset, graph.index(-farthest), graph.index(farthest))
    return graph.op("Add", clipped, graph.index(farthest))

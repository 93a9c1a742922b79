"""Pooling over tokens: from `token_embeddings` to `sentence_embedding`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import SENTENCE, TOKENS
from embedrt_export.graph.builder import BOOL, FLOAT, INT32, GraphBuilder
from embedrt_export.heads.head import Feature, Head, HeadInputs, HeadOutputs, Masks, config_name, read_pooling_config
from embedrt_export.source.configs import strict

_BLOCK = 128  # tokens summed in one block
_SMALLEST_COUNT = 1e-9  # sentence-transformers clamps the token count of a mean to it


# The booleans of older configs, in the order in which they concatenate.
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling:
    """Settings of a Pooling module; several modes are concatenated, and `embedding_dimension` None is any width."""

    embedding_dimension: int | None
    pooling_mode: tuple[str, ...] = ("mean",)
    include_prompt: bool = True


def read(folder: Path) -> Pooling:
    """Read the module's config, with one boolean for each mode or with a list of modes."""
    where, content = config_name(folder), read_pooling_config(folder)
    old = {key: content.pop(key) for key in _OLD_KEYS if key in content}
    for key, value in old.items():
        if type(value) is not bool:
            raise ExportError(f"{where}: {key}: expected a boolean, got {value!r}")
    if "pooling_mode" not in content:
        content["pooling_mode"] = [mode for key, mode in _OLD_KEYS.items() if old.get(key)] or ["mean"]
    elif isinstance(content["pooling_mode"], str):
        content["pooling_mode"] = [content["pooling_mode"]]
    pooling = strict(Pooling, content, where)
    if pooling.embedding_dimension is None:
        raise ExportError(f"{where}: embedding_dimension: expected an integer, got null")
    for mode in pooling.pooling_mode:
        if mode not in POOLERS:
            raise UnsupportedModelError(
                f"{where}: pooling mode {mode!r} is not supported; supported: {', '.join(POOLERS)}"
            )
    if not pooling.pooling_mode:
        raise ExportError(f"{where}: pooling_mode is empty")
    return pooling


def pool(graph: GraphBuilder, modes: tuple[str, ...], token_embeddings: str, masks: Masks) -> str:
    """Pool over the tokens, in float32.

    Args:
        graph: The graph.
        modes: Keys of `POOLERS`; several are concatenated.
        token_embeddings: `[batch, sequence, hidden]`; in a packed graph `[tokens, hidden]`.
        masks: The tokens to pool over; in a packed graph its inputs tell.

    Returns:
        `[batch, hidden x len(modes)]`.
    """
    if graph.is_packed:
        pooled = [PACKED_POOLERS[mode](graph, token_embeddings) for mode in modes]
    else:
        token_embeddings = graph.to_float(token_embeddings)
        pooled = [POOLERS[mode](graph, token_embeddings, masks) for mode in modes]
    return pooled[0] if len(pooled) == 1 else graph.op("Concat", *pooled, axis=-1)


def first_position(graph: GraphBuilder, mask: str) -> str:
    """Add the position of the first 1 in each row, or 0 without any: int64 `[batch, 1]`."""
    return graph.op("ArgMax", graph.op("Cast", mask, to=INT32), axis=1, keepdims=1)


def _cls(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The first token of each row."""
    return graph.op("GatherND", token_embeddings, first_position(graph, masks.pooling), batch_dims=1)


def _max(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The maximum of each coordinate."""
    counts = graph.op("Unsqueeze", graph.op("Cast", masks.pooling, to=BOOL), graph.ints(2))
    lowest = graph.scalar(float(np.finfo(np.float32).min))
    return graph.op("ReduceMax", graph.op("Where", counts, token_embeddings, lowest), graph.ints(1), keepdims=0)


def _mean(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The sum over the tokens, divided by their number."""
    weights = graph.op("Cast", masks.pooling, to=FLOAT)
    return graph.op("Div", sum_tokens(graph, token_embeddings, weights, masks), _count(graph, weights))


def _mean_sqrt_len(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The sum over the tokens, divided by the square root of their number."""
    weights = graph.op("Cast", masks.pooling, to=FLOAT)
    total = sum_tokens(graph, token_embeddings, weights, masks)
    return graph.op("Div", total, graph.op("Sqrt", _count(graph, weights)))


def _weighted_mean(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The mean with weights 1, 2, 3, ... that count every token, also those that the pooling skips."""
    length = graph.op("Squeeze", graph.op("Shape", masks.attention, start=1), graph.ints(0))
    position = graph.op("Range", graph.index(0), length, graph.index(1))
    position = graph.op("Add", graph.op("Sub", position, first_position(graph, masks.attention)), graph.index(1))
    weights = graph.op("Cast", graph.op("Mul", position, masks.pooling), to=FLOAT)
    return graph.op("Div", sum_tokens(graph, token_embeddings, weights, masks), _count(graph, weights))


def _last_token(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The last token of each row, or zeros if there is none."""
    width = graph.op("Shape", masks.pooling, start=1)
    last = graph.op("Sub", width, graph.index(1))
    backwards = graph.op("Slice", masks.pooling, last, graph.ints(-(2**31)), graph.ints(1), graph.ints(-1))
    position = graph.op("Sub", last, first_position(graph, backwards))
    counts = graph.op("Cast", graph.op("GatherND", masks.pooling, position, batch_dims=1), to=FLOAT)
    found = graph.op("GatherND", token_embeddings, position, batch_dims=1)
    return graph.op("Mul", found, graph.op("Unsqueeze", counts, graph.ints(1)))


def sum_tokens(graph: GraphBuilder, token_embeddings: str, weights: str, masks: Masks) -> str:
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
"""By the mode of a Pooling module; a new mode is one function and one entry, here and in `PACKED_POOLERS`."""


def _packed_rows(graph: GraphBuilder, tokens: str, rows: str) -> str:
    """Pick rows of a stream of tokens: float32, `[batch, hidden]` or `[batch, length, hidden]`."""
    return graph.to_float(graph.op("Gather", tokens, graph.packed_input(rows)))


def _packed_total(graph: GraphBuilder, tokens: str, weights: str) -> str:
    """Add the sum over the tokens of each text, with weights that are an input."""
    rows = _packed_rows(graph, tokens, "token_index")
    return graph.op("Squeeze", graph.op("MatMul", graph.packed_input(weights), rows), graph.ints(1))


def _packed_last_token(graph: GraphBuilder, tokens: str) -> str:
    return graph.op("Mul", _packed_rows(graph, tokens, "last_rows"), graph.packed_input("has_tokens"))


def _packed_max(graph: GraphBuilder, tokens: str) -> str:
    """The maximum of each coordinate, as the first of them by size: ReduceMax needs cuDNN."""
    rows = _packed_rows(graph, tokens, "pooled_index")
    largest, _ = graph.ops("TopK", 2, rows, graph.ints(1), axis=1, sorted=0)
    return graph.op("Squeeze", largest, graph.ints(1))


PACKED_POOLERS: dict[str, Callable[[GraphBuilder, str], str]] = {
    "cls": lambda graph, tokens: _packed_rows(graph, tokens, "first_rows"),
    "max": _packed_max,
    "mean": lambda graph, tokens: _packed_total(graph, tokens, "mean_weights"),
    "mean_sqrt_len_tokens": lambda graph, tokens: _packed_total(graph, tokens, "mean_sqrt_len_weights"),
    "weightedmean": lambda graph, tokens: _packed_total(graph, tokens, "weightedmean_weights"),
    "lasttoken": _packed_last_token,
}
"""The same modes over a stream of tokens, whose inputs have the weights and the rows."""


def add(inputs: HeadInputs, settings: Pooling) -> HeadOutputs:
    """Add the pooling of the token embeddings."""
    tokens = inputs.feature(TOKENS)
    if settings.embedding_dimension is not None:
        inputs.require_width(settings.embedding_dimension, tokens.width)
    pooled = pool(inputs.graph, settings.pooling_mode, tokens.value, inputs.masks)
    return HeadOutputs({SENTENCE: Feature(pooled, tokens.width * len(settings.pooling_mode), per_token=False)})


HEAD = Head(read, add)

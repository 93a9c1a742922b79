"""The modules after the transformer: from `token_embeddings` to `sentence_embedding`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embedrt_export.graph.builder import BOOL, FLOAT, INT32, GraphBuilder
from embedrt_export.layers.linear import ACTIVATIONS, Activation

_BLOCK = 128  # tokens that are added up before the blocks are
_SMALLEST_COUNT = 1e-9  # sentence-transformers clamps the token count of a mean to it
_SMALLEST_NORM = 1e-12  # and torch.nn.functional.normalize the norm to this


@dataclass(frozen=True)
class Masks:
    """Which tokens count.

    Attributes:
        attention: int64 `[batch, sequence]`: 1 for tokens, 0 for padding.
        pooling: Likewise, with 0 also for tokens that are left out of the pooling.
        long: Whether rows may be so long that a sum over them needs care: engines add one number after the other, and
            over thousands of tokens the rounding errors grow beyond those of torch, which adds by halves.
    """

    attention: str
    pooling: str
    long: bool = False


def pool(graph: GraphBuilder, modes: tuple[str, ...], token_embeddings: str, masks: Masks) -> str:
    """Pools over the tokens, leaving padding out.

    Args:
        graph: The graph.
        modes: Keys of `POOLERS`; several are concatenated.
        token_embeddings: `[batch, sequence, hidden]`.
        masks: Which tokens count.

    Returns:
        `[batch, hidden x len(modes)]`.
    """
    pooled = [POOLERS[mode](graph, token_embeddings, masks) for mode in modes]
    return pooled[0] if len(pooled) == 1 else graph.op("Concat", *pooled, axis=-1)


def normalize(graph: GraphBuilder, x: str) -> str:
    """`x / max(||x||, 1e-12)` over the last axis."""
    norm = graph.op("ReduceL2", x, graph.ints(-1), keepdims=1)
    return graph.op("Div", x, graph.op("Max", norm, graph.scalar(_SMALLEST_NORM)))


def weighted_sum(graph: GraphBuilder, states: list[str], weights: list[float]) -> str:
    """The sum of equally shaped values, each times its weight."""
    terms = [graph.op("Mul", x, graph.scalar(weight)) for x, weight in zip(states, weights, strict=True)]
    return terms[0] if len(terms) == 1 else graph.op("Sum", *terms)


def _first(graph: GraphBuilder, mask: str) -> str:
    """The place of the first 1 in each row, or 0 without any: int64 `[batch, 1]`."""
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
    place = graph.op("Range", graph.index(0), length, graph.index(1))
    place = graph.op("Add", graph.op("Sub", place, _first(graph, masks.attention)), graph.index(1))
    weights = graph.op("Cast", graph.op("Mul", place, masks.pooling), to=FLOAT)
    return graph.op("Div", _total(graph, token_embeddings, weights, masks), _count(graph, weights))


def _last_token(graph: GraphBuilder, token_embeddings: str, masks: Masks) -> str:
    """The last token that counts, or zeros without any."""
    width = graph.op("Shape", masks.pooling, start=1)
    last = graph.op("Sub", width, graph.index(1))
    backwards = graph.op("Slice", masks.pooling, last, graph.ints(-(2**31)), graph.ints(1), graph.ints(-1))
    place = graph.op("Sub", last, _first(graph, backwards))
    counts = graph.op("Cast", graph.op("GatherND", masks.pooling, place, batch_dims=1), to=FLOAT)
    found = graph.op("GatherND", token_embeddings, place, batch_dims=1)
    return graph.op("Mul", found, graph.op("Unsqueeze", counts, graph.ints(1)))


def _total(graph: GraphBuilder, token_embeddings: str, weights: str, masks: Masks) -> str:
    """The weighted sum over tokens, as one product of matrices, or as the sum of those of blocks."""
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


def _softplus(graph: GraphBuilder, x: str) -> str:
    """`log(1 + exp(x))`, and `x` itself above 20, as torch has it."""
    return graph.op("Where", graph.op("Greater", x, graph.scalar(20.0)), x, graph.op("Softplus", x))


DENSE_ACTIVATIONS: dict[str, Activation] = {
    "CELU": lambda graph, x: graph.op("Celu", x, alpha=1.0),
    "ELU": lambda graph, x: graph.op("Elu", x, alpha=1.0),
    "GELU": ACTIVATIONS["gelu"],
    "Hardshrink": lambda graph, x: graph.op("Shrink", x, lambd=0.5, bias=0.0),
    "Hardsigmoid": lambda graph, x: graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "Hardswish": lambda graph, x: graph.op("HardSwish", x),
    "Hardtanh": lambda graph, x: graph.op("Clip", x, graph.scalar(-1.0), graph.scalar(1.0)),
    "Identity": ACTIVATIONS["linear"],
    "LeakyReLU": ACTIVATIONS["leaky_relu"],
    "LogSigmoid": lambda graph, x: graph.op("Neg", _softplus(graph, graph.op("Neg", x))),
    "Mish": ACTIVATIONS["mish"],
    "ReLU": ACTIVATIONS["relu"],
    "ReLU6": ACTIVATIONS["relu6"],
    "SELU": lambda graph, x: graph.op("Selu", x),
    "SiLU": ACTIVATIONS["silu"],
    "Sigmoid": ACTIVATIONS["sigmoid"],
    "Softplus": _softplus,
    "Softshrink": lambda graph, x: graph.op("Shrink", x, lambd=0.5, bias=0.5),
    "Softsign": lambda graph, x: graph.op("Softsign", x),
    "Tanh": ACTIVATIONS["tanh"],
    "Tanhshrink": lambda graph, x: graph.op("Sub", x, graph.op("Tanh", x)),
}
"""The activations of a Dense module, by the name of torch's class with its default arguments."""

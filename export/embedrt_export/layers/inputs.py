"""Inputs of a text encoder's graph, and the two shapes of its hidden states.

Hidden states are `[tokens, hidden]` with `tokens = batch x sequence`, so that every linear layer is one Gemm with its
bias, which is 2 % faster than MatMul and Add over three dimensions. A packed graph has no other shape: `tokens` is the
number of tokens of all texts, without padding.
"""

from dataclasses import dataclass

from embedrt_export.graph.builder import GraphBuilder


@dataclass(frozen=True)
class TextInputs:
    """The graph's inputs, and shapes computed from them once.

    A packed graph has the ids alone, int32 `[tokens]`; the other values are empty.

    Attributes:
        input_ids: int64 `[batch, sequence]`.
        attention_mask: int64 `[batch, sequence]`, 1 for tokens and 0 for padding.
        token_type_ids: int64 `[batch, sequence]`, or None where all are 0.
        shape: int64 `[2]`: batch and sequence.
        sequence: int64 `[1]`.
    """

    input_ids: str
    attention_mask: str
    token_type_ids: str | None
    shape: str
    sequence: str


def text_inputs(graph: GraphBuilder, *, token_type_ids: bool) -> TextInputs:
    """Declare the inputs."""
    if graph.is_packed:
        types_name = graph.packed_input("token_type_ids") if token_type_ids else None
        return TextInputs(graph.packed_input("input_ids"), "", types_name, "", "")
    input_ids = graph.input("input_ids")
    attention_mask = graph.input("attention_mask")
    types = graph.input("token_type_ids") if token_type_ids else None
    shape = graph.op("Shape", input_ids)
    sequence = graph.op("Slice", shape, graph.ints(1), graph.ints(2))
    return TextInputs(input_ids, attention_mask, types, shape, sequence)


def flatten(graph: GraphBuilder, value: str, width: int) -> str:
    """Reshape `[batch, sequence, width]` to `[tokens, width]`."""
    if graph.is_packed:
        return value
    return graph.op("Reshape", value, graph.ints(-1, width))


def unflatten(graph: GraphBuilder, value: str, shape: str, *width: int) -> str:
    """Reshape `[tokens, width]` to `[batch, sequence, *width]`; in a packed graph, return it as it is."""
    if graph.is_packed:
        return value
    return graph.op("Reshape", value, graph.op("Concat", shape, graph.ints(*width), axis=0))

"""The embeddings of BERT and its descendants: the sum of tables for words, positions, token types and task types."""

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import INT64, GraphBuilder
from embedrt_export.layers.linear import TextInputs, flatten
from embedrt_export.source.weights import Weights

_NAMES = "embeddings.{}_embeddings.weight"


def embed(
    graph: GraphBuilder,
    weights: Weights,
    inputs: TextInputs,
    width: int,
    *,
    words: int,
    positions: int | None = None,
    padding_id: int | None = None,
    types: int | None = None,
    tasks: int | None = None,
) -> str:
    """Adds up the embeddings of every token, before any norm.

    Args:
        graph: The graph.
        weights: The model's tensors.
        inputs: The graph's inputs.
        width: Width of the tables.
        words: Rows of the table of words.
        positions: Rows of the table of positions; None has no such table.
        padding_id: Positions count from here on, as `padded_positions` does; None counts from the left end.
        types: Rows of the table of token types; None has no such table.
        tasks: Rows of the table of task types, of which every token has the first; None has no such table.

    Returns:
        `[tokens, width]`.
    """
    table = weights(_NAMES.format("word"), words, width)
    places = None if positions is None else weights(_NAMES.format("position"), positions, width)
    kinds = None if types is None else weights(_NAMES.format("token_type"), types, width)
    # What every token gets alike is added to a table here, and not in the graph.
    same = [] if tasks is None else [weights(_NAMES.format("task_type"), tasks, width)[0]]
    if kinds is not None and inputs.token_type_ids is None:
        same.append(kinds[0])
    for row in same:
        table, places = (table + row, None) if places is None else (table, places + row)
    x = graph.op("Gather", graph.weight(_NAMES.format("word"), table), inputs.input_ids)
    if kinds is not None and inputs.token_type_ids is not None:
        kind = graph.op("Gather", graph.weight(_NAMES.format("token_type"), kinds), inputs.token_type_ids)
        x = graph.op("Add", x, kind)
    if places is not None:
        rows = graph.weight(_NAMES.format("position"), places)
        if padding_id is None:
            place = graph.op("Slice", rows, graph.ints(0), inputs.sequence)
        else:
            place = graph.op("Gather", rows, padded_positions(graph, inputs, padding_id))
        x = graph.op("Add", x, place)
    return flatten(graph, x, width)


def padded_positions(graph: GraphBuilder, inputs: TextInputs, padding_id: int) -> str:
    """`padding_id` plus how many tokens that are not the padding id stand here or before; padding has `padding_id`.

    Returns:
        int64 `[batch, sequence]`.
    """
    is_token = graph.op("Not", graph.op("Equal", inputs.input_ids, graph.index(padding_id)))
    counted = graph.op("Cast", is_token, to=INT64)
    count = graph.op("Mul", graph.op("CumSum", counted, graph.index(1)), counted)
    return graph.op("Add", count, graph.index(padding_id))


def positions_left(rows: int, padding_id: int | None) -> int:
    """How many tokens a table of so many positions serves.

    Raises:
        UnsupportedModelError: It serves none.
    """
    left = rows if padding_id is None else rows - padding_id - 1
    if left < 1:
        raise UnsupportedModelError(
            f"config.json: max_position_embeddings {rows} leaves no position for a token, "
            f"as positions count from the padding id {padding_id} on; check both numbers"
        )
    return left

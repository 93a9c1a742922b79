"""Embeddings of BERT and its descendants: a sum over tables for words, positions, token types and task types."""

from dataclasses import dataclass

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import INT64
from embedrt_export.layers.scope import Scope


@dataclass(frozen=True)
class Tables:
    """Rows of the embedding tables.

    Attributes:
        words: Rows of the word table.
        positions: Rows of the position table; None is no such table.
        padding_id: Positions count from here on, as `padded_positions` does; None counts from the left end.
        types: Rows of the token type table; None is no such table.
        tasks: Rows of the task type table, of which every token has the first; None is no such table.
    """

    words: int
    positions: int | None = None
    padding_id: int | None = None
    types: int | None = None
    tasks: int | None = None


def embed(scope: Scope, width: int, tables: Tables) -> str:
    """Add up the embeddings of every token, before any norm.

    Args:
        scope: The model; the tables are in its `embeddings`.
        width: Width of the tables.
        tables: Their rows.

    Returns:
        `[tokens, width]`.
    """
    graph, inputs, scope = scope.graph, scope.inputs, scope.at("embeddings")
    word, position, token_type = (f"{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
    words = scope.read(word, tables.words, width)
    positions = None if tables.positions is None else scope.read(position, tables.positions, width)
    types = None if tables.types is None else scope.read(token_type, tables.types, width)
    # Rows that are the same for every token are added to a table here instead of in the graph.
    constant = [] if tables.tasks is None else [scope.read("task_type_embeddings.weight", tables.tasks, width)[0]]
    if types is not None and inputs.token_type_ids is None:
        constant.append(types[0])
    for row in constant:
        words, positions = (words + row, None) if positions is None else (words, positions + row)
    x = graph.op("Gather", scope.add(word, words), inputs.input_ids)
    if types is not None and inputs.token_type_ids is not None:
        x = graph.op("Add", x, graph.op("Gather", scope.add(token_type, types), inputs.token_type_ids))
    if positions is not None:
        if graph.is_packed:
            start = tables.padding_id or 0  # the row of padding, which is position 0 of a packed graph
            graph.padding_id = tables.padding_id
            rows = scope.add(position, positions[start:])
            return graph.op("Add", x, graph.op("Gather", rows, graph.packed_input("position_ids")))
        rows = scope.add(position, positions)
        if tables.padding_id is None:
            added = graph.op("Slice", rows, graph.ints(0), inputs.sequence)
        else:
            added = graph.op("Gather", rows, padded_positions(scope, tables.padding_id))
        x = graph.op("Add", x, added)
    return scope.flatten(x, width)


def padded_positions(scope: Scope, padding_id: int) -> str:
    """Add positions that count from `padding_id`, which padding has itself; the first token has the next one.

    Returns:
        int64 `[batch, sequence]`.
    """
    graph = scope.graph
    is_token = graph.op("Not", graph.op("Equal", scope.inputs.input_ids, graph.index(padding_id)))
    counted = graph.op("Cast", is_token, to=INT64)
    count = graph.op("Mul", graph.op("CumSum", counted, graph.index(1)), counted)
    return graph.op("Add", count, graph.index(padding_id))


def positions_left(rows: int, padding_id: int | None) -> int:
    """Number of tokens for which a position embedding table of `rows` rows suffices.

    Raises:
        UnsupportedModelError: It is not enough for one token.
    """
    left = rows if padding_id is None else rows - padding_id - 1
    if left < 1:
        raise UnsupportedModelError(
            f"config.json: max_position_embeddings {rows} leaves no position for a token, "
            f"as positions count from the padding id {padding_id} on; check both numbers"
        )
    return left

"""Ray Data: a class for `Dataset.map_batches`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from embedrt.bulk.arguments import Options, choices
from embedrt.bulk.arrow import pa
from embedrt.bulk.transform import Transform
from embedrt.errors import MissingDependencyError

try:
    import ray
except ImportError as error:
    raise MissingDependencyError("Ray is not installed; run `pip install 'ray[data]'`") from error


class Encoder:
    """Batches of texts to batches with vectors. Each actor of Ray Data makes one, which loads the model once.

    Batches may be Arrow tables, dicts of NumPy arrays or pandas DataFrames; the result is of the same kind. Arrow
    tables (`batch_format="pyarrow"`) are the fastest, as nothing is copied.

    Args:
        model: A bundle folder that every node can read, a name in the local store, or a hub id.
        **options: Options of `embedrt.bulk.run` about columns, vectors and the model. Without `threads`, the model uses
            as many as the actor has CPUs (`num_cpus`).

    Example:
        >>> dataset.map_batches(
        ...     Encoder,
        ...     fn_constructor_kwargs={"model": "bundle/", "text": "body"},
        ...     batch_format="pyarrow",
        ...     batch_size=4096,
        ...     num_cpus=2,
        ...     compute=ray.data.ActorPoolStrategy(size=8),
        ... )
    """

    def __init__(self, model: str | Path, **options: Unpack[Options]) -> None:
        if options.get("threads") is None:
            options["threads"] = assigned_threads()
        self._transform = Transform(*choices(model, options))
        self._transform.encoder  # noqa: B018 - loads the model before the first batch

    def __call__(self, batch: Any) -> Any:
        """Add the column with the result to a batch."""
        result = self._transform(_table(batch)).table
        if isinstance(batch, pa.Table):
            return result
        if isinstance(batch, Mapping):
            return {name: _array(result[name]) for name in result.column_names}
        return result.to_pandas()


def assigned_threads() -> int | None:
    """The CPUs that Ray has assigned to this actor; None outside of Ray, and for an actor that reserves none."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    assigned = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    return int(assigned) or None


def _table(batch: Any) -> pa.Table:
    """A batch of any format as a table."""
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        return pa.table({name: _column(values) for name, values in batch.items()})
    return pa.Table.from_pandas(batch, preserve_index=False)


def _column(values: Any) -> pa.Array:
    """A NumPy array as a column; one with several axes becomes lists."""
    if np.ndim(values) == 1:
        return pa.array(values)
    return pa.array(list(np.asarray(values).reshape(len(values), -1)))


def _array(column: pa.ChunkedArray) -> Any:
    """A column as a NumPy array: vectors as rows of a matrix, unless one is null."""
    if not pa.types.is_fixed_size_list(column.type) or column.null_count:
        return column.to_numpy(zero_copy_only=False)
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)

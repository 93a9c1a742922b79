"""Spark: a function for `DataFrame.mapInArrow`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

from embedrt.bulk.arguments import Options, choices
from embedrt.bulk.arrow import pa
from embedrt.bulk.options import Meaning, ModelChoice
from embedrt.bulk.reading import tables
from embedrt.bulk.transform import Transform
from embedrt.errors import MissingDependencyError

try:
    from pyspark import TaskContext
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
except ImportError as error:
    raise MissingDependencyError("Spark is not installed; run `pip install pyspark`") from error

_VECTOR_TYPES = ("float32", "int8")


class Encoding:
    """A function from Arrow record batches to record batches with vectors, for `DataFrame.mapInArrow`.

    A Python worker of Spark loads the model once and keeps it for its later tasks.

    Args:
        model: The model.
        meaning: The options that decide the result.
    """

    def __init__(self, model: ModelChoice, meaning: Meaning) -> None:
        self._model = model
        self._meaning = meaning

    def schema(self, source: Any) -> Any:
        """The Spark schema of the result, for a DataFrame or its schema. Loads the model in this process."""
        schema = to_arrow_schema(getattr(source, "schema", source))
        return from_arrow_schema(transform(self._model, self._meaning).schema(schema))

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Add the column with the result to every batch of a partition."""
        encode = transform(placed(self._model), self._meaning)
        for table in tables(batches, encode.most_rows):
            yield from encode(table).table.to_batches()


def encoder(model: str | Path, **options: Unpack[Options]) -> Encoding:
    """Make a function for `DataFrame.mapInArrow`. Its method `schema` gives the schema that Spark asks for.

    Args:
        model: A bundle folder that every executor can read, a name in the local store, or a hub id.
        **options: Options of `embedrt.bulk.run` about columns, vectors and the model. Vectors are lists of variable
            size, as Spark has no others. Without `threads`, the model uses `spark.task.cpus` of them.

    Raises:
        ValueError: Spark has no such type for vectors.

    Example:
        >>> encode = encoder("bundle/", text="body")
        >>> df.mapInArrow(encode, encode.schema(df))
    """
    choice, meaning = choices(model, {"fixed_size": False, **options})
    if meaning.fixed_size:
        raise ValueError("fixed_size: expected False, got True: Spark has no lists of fixed size")
    if meaning.vector_type not in _VECTOR_TYPES:
        raise ValueError(
            f"vector_type: expected {' or '.join(_VECTOR_TYPES)}, got {meaning.vector_type!r}: Spark has no such type"
        )
    return Encoding(choice, meaning)


@lru_cache(maxsize=4)
def transform(model: ModelChoice, meaning: Meaning) -> Transform:
    """The transform of this process, which keeps its model loaded."""
    return Transform(model, meaning)


def placed(model: ModelChoice) -> ModelChoice:
    """The model with the threads and the GPU that Spark has assigned to the task, where the user has chosen none."""
    task = TaskContext.get()
    if task is None:
        return model
    gpus = task.resources().get("gpu")
    device = f"cuda:{gpus.addresses[0]}" if gpus and model.device is None else model.device
    return replace(model, device=device, threads=model.threads or task.cpus())

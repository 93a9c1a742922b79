"""`merge`: the parts of a job in one file, in order."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedrt.bulk import parts
from embedrt.bulk.arrow import pa
from embedrt.bulk.job import find_job
from embedrt.bulk.reading import tables
from embedrt.bulk.writers import WRITERS, WriterFormat
from embedrt.errors import BulkError

_ROWS = 16384


def merge(target: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Join the parts of a job in one file, in order, in bounded memory. The file is there whole or not at all.

    Args:
        target: The folder of the job.
        output: The file; its ending names the format.

    Returns:
        The file.

    Raises:
        BulkError: A part is missing or damaged, or the file cannot be written.

    Example:
        >>> embedrt.bulk.merge("vectors/", "vectors.parquet")
        PosixPath('vectors.parquet')
    """
    job, path = find_job(Path(target)), Path(output)
    format_ = parts.format_of(path)
    if missing := sum(1 for _ in job.missing()):
        raise BulkError(f"{target}: {missing} of {job.units} parts are missing; run the job again, then merge it")
    if not path.parent.is_dir():
        raise BulkError(f"{path}: expected a folder to write to, got nothing at {path.parent}; make it")
    read = WRITERS[job.meaning.part_format]
    names = [job.target / job.task(number).part for number in range(job.units)]
    schema = read.read_schema(names[0])
    with parts.open_file(path.parent, path.parent, path.name, schema, format_, job.meaning.vector) as file:
        for table in tables((batch for name in names for batch in _batches(read, name, schema)), _ROWS):
            file.write(table)
        if file.rows != job.done.written:
            raise BulkError(f"{target}: expected {job.done.written} rows, got {file.rows}; run `embedrt bulk check`")
        file.commit({"job": job.record.digest, "units": job.units})
    return path


def _batches(read: WriterFormat, path: Path, schema: Any) -> Iterator[Any]:
    """The rows of a part in the columns of the first part: the types of text files may differ.

    Raises:
        BulkError: The part is damaged, or has other columns.
    """
    try:
        for batch in read.read_part(path):
            yield pa.RecordBatch.from_arrays(
                [batch.column(field.name).cast(field.type) for field in schema], schema=schema
            )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise BulkError(f"{path}: expected a part with the columns of the first, got: {error}") from error

"""`load`: the parts of a job into a vector database, resumable."""

import hashlib
import json
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedrt.bulk import manifest, parts
from embedrt.bulk.arrow import pa
from embedrt.bulk.databases import Database, open_database
from embedrt.bulk.databases.rows import Layout, layout_of, rows_of
from embedrt.bulk.job import Job, find_job
from embedrt.bulk.manifest import Line
from embedrt.bulk.names import without_secrets
from embedrt.bulk.writers import WRITERS
from embedrt.errors import BulkError, EmbedrtError


@dataclass(frozen=True)
class Loaded:
    """The outcome of `load`.

    Attributes:
        parts: Parts that are in the table.
        units: Parts of the whole job.
        rows: Rows that this call wrote.
    """

    parts: int
    units: int
    rows: int


def load(target: str | os.PathLike[str], url: str) -> Loaded:
    """Write the parts of a job to a vector database. Call it again to resume.

    Rows are written by id, so that a part that is written twice changes nothing. `_job` keeps a list of the parts that
    are stored, for each URL without its secrets. Parts that the job has not made yet are left for the next call.

    Args:
        target: The folder of the job.
        url: The table: `qdrant://HOST?table=NAME`, `qdrant:///FOLDER?table=NAME`, or the same with `lancedb`,
            `chroma` or `pgvector`.

    Returns:
        Numbers of parts and rows.

    Raises:
        BulkError: The folder has no job, a part is damaged, the vectors are not dense, another model made those of
            the table, or the database failed.
        MissingDependencyError: The client of the database is not installed.
        ValueError: There is no such database.

    Example:
        >>> embedrt.bulk.load("vectors/", "lancedb:///data/lance?table=articles").rows
        200000
    """
    job = find_job(Path(target))
    record = job.folder / f"loaded-{hashlib.sha256(without_secrets(url).encode()).hexdigest()[:16]}.jsonl"
    done = _read(record)
    lines = sorted(_lines(job).values(), key=lambda line: line.unit)
    if not lines:
        return Loaded(0, job.units, 0)
    read = WRITERS[job.meaning.part_format]
    layout = layout_of(read.read_schema(job.target / lines[0].part), job.meaning, lines[0].fingerprint)
    rows = 0
    with closing(_opened(url, layout)) as database:
        if done and database.count() == 0:  # somebody emptied the table
            done = set()
        for line in lines:
            if (line.unit, line.sha256) not in done:
                rows += _load(job, line, layout, database, without_secrets(url))
                with record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"unit": line.unit, "sha256": line.sha256}) + "\n")
    return Loaded(len(lines), job.units, rows)


def _lines(job: Job) -> dict[int, Line]:
    """The newest line of each unit; whoever uses it checks the hash."""
    return {line.unit: line for line in manifest.read_lines(job.folder) if line.unit < len(job.plan)}


def _load(job: Job, line: Line, layout: Layout, database: Database, name: str) -> int:
    """Write a part; the number of its rows."""
    path = job.target / line.part
    if not path.exists() or parts.sha256_of(path) != line.sha256:
        raise BulkError(f"{path}: expected the part of the manifest, got another one; run the job again, then load it")
    batches = WRITERS[job.meaning.part_format].read_part(path)
    table = pa.Table.from_batches(list(batches), WRITERS[job.meaning.part_format].read_schema(path))
    rows = rows_of(table, job.meaning, layout, line.first_row)
    try:
        database.upsert(rows)
    except EmbedrtError:
        raise
    except Exception as error:  # each client has its own
        raise BulkError(
            f"{name}: writing {line.part} failed: {error}; run the same command again once this is mended"
        ) from error
    return len(rows)


def _opened(url: str, layout: Layout) -> Database:
    try:
        return open_database(url, layout)
    except (EmbedrtError, ValueError):
        raise
    except Exception as error:
        raise BulkError(f"{without_secrets(url)}: opening the table failed: {error}") from error


def _read(record: Path) -> set[tuple[Any, Any]]:
    """The parts in a list, without a line that a killed process left incomplete."""
    found = set()
    if record.exists():
        for line in record.read_text(encoding="utf-8").split("\n"):
            try:
                value = json.loads(line)
                found.add((value["unit"], value["sha256"]))
            except (ValueError, TypeError, KeyError):
                continue
    return found

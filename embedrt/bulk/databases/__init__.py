"""Vector databases, one module each: rows are written by id, so that writing them twice changes nothing."""

from importlib import import_module
from typing import Any, Protocol

from embedrt.bulk.databases.address import parse_address
from embedrt.bulk.databases.rows import Layout, Rows

DATABASES = {
    "qdrant": ("embedrt.bulk.databases.qdrant", "Qdrant"),
    "lancedb": ("embedrt.bulk.databases.lancedb", "LanceDB"),
    "chroma": ("embedrt.bulk.databases.chroma", "Chroma"),
    "pgvector": ("embedrt.bulk.databases.pgvector", "PgVector"),
}
"""Module and class by the scheme of the URL."""


class Database(Protocol):
    """A table of a vector database."""

    def upsert(self, rows: Rows) -> None:
        """Write rows; those with the same ids are replaced. When it returns, they are stored."""

    def count(self) -> int:
        """The rows of the table."""

    def close(self) -> None:
        """Close the connection."""


def open_database(url: str, layout: Layout) -> Database:
    """Open a table, and make it if it is not there.

    Args:
        url: As `parse_address` takes it.
        layout: The columns.

    Raises:
        BulkError: The table has vectors of another model.
        MissingDependencyError: The client of the database is not installed.
        ValueError: There is no such database.
    """
    address = parse_address(url)
    if address.scheme not in DATABASES:
        known = ", ".join(f"{name}://" for name in DATABASES)
        raise ValueError(f"database: expected a URL that begins with one of {known}, got {address.scheme!r}")
    module, name = DATABASES[address.scheme]
    opened: Any = getattr(import_module(module), name)(address, layout)
    database: Database = opened
    return database

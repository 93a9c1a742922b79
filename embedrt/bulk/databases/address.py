"""The URL of a table in a vector database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

_TABLE = "embeddings"


@dataclass(frozen=True)
class Address:
    """A table in a vector database.

    Attributes:
        scheme: The database: "qdrant", "lancedb", "chroma" or "pgvector".
        host: The host, or None for a database in a folder.
        port: The port; None takes the database's usual one.
        path: The folder, or the path on the host.
        table: The name of the table, which some databases call a collection.
        user: The user, or None.
        password: The password, or None.
        options: More options, as the database's client names them.
    """

    scheme: str
    host: str | None
    port: int | None
    path: str
    table: str = _TABLE
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)


def parse_address(url: str) -> Address:
    """Parse `SCHEME://[USER[:PASSWORD]@][HOST[:PORT]][/PATH][?table=NAME]`.

    Without a host the database is in the folder `/PATH`. `SCHEME:PATH` has a relative folder.

    Raises:
        ValueError: The port is no number.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    return Address(
        parts.scheme,
        parts.hostname,
        parts.port,
        unquote(parts.path),
        options.pop("table", _TABLE),
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        options,
    )

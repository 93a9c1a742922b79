"""Chroma: a server, or a folder."""

import json
from typing import Any

from embedrt.bulk.databases.address import Address
from embedrt.bulk.databases.rows import Layout, Rows
from embedrt.bulk.databases.space import FINGERPRINT, check_space
from embedrt.errors import MissingDependencyError

try:
    import chromadb
    from chromadb.config import Settings
except ImportError as error:
    raise MissingDependencyError("Chroma is not installed; run `pip install chromadb`") from error

_PORT = 8000
_DIM = "embedrt.dim"


class Chroma:
    """A collection. Ids are strs; columns become metadata, those of nested types as JSON.

    Args:
        address: The address; the option "token" is sent to a server as a bearer token, "ssl" is 1 for TLS.
        layout: The columns.

    Raises:
        BulkError: The collection has vectors of another model.
    """

    def __init__(self, address: Address, layout: Layout) -> None:
        settings = Settings(anonymized_telemetry=False)
        if address.host is None:
            self._client = chromadb.PersistentClient(address.path, settings)
        else:
            token = address.options.get("token")
            self._client = chromadb.HttpClient(
                address.host,
                address.port or _PORT,
                ssl=address.options.get("ssl") == "1",
                headers={"Authorization": f"Bearer {token}"} if token else None,
                settings=settings,
            )
        self._collection = self._client.get_or_create_collection(
            address.table,
            metadata={FINGERPRINT: layout.fingerprint, _DIM: layout.dim},
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine"}},
        )
        metadata = self._collection.metadata or {}
        check_space(address.table, layout, metadata.get(_DIM, layout.dim), metadata.get(FINGERPRINT))

    def upsert(self, rows: Rows) -> None:
        """See `Database`."""
        most = self._client.get_max_batch_size()
        ids = [str(one) for one in rows.ids]
        metadatas = [_metadata(row) for row in rows.others.to_pylist()]
        for start in range(0, len(ids), most):
            some = slice(start, start + most)
            self._collection.upsert(ids[some], rows.vectors[some], metadatas[some])

    def count(self) -> int:
        """See `Database`."""
        return int(self._collection.count())

    def close(self) -> None:
        """See `Database`."""


def _metadata(row: dict[str, Any]) -> dict[str, str | int | float | bool] | None:
    """Columns of a row as Chroma has them: flat, without nulls; it takes no empty dict."""
    plain = {
        name: value
        if isinstance(value, str | int | float | bool)
        else json.dumps(value, default=str, ensure_ascii=False)
        for name, value in row.items()
        if value is not None
    }
    return plain or None

"""Qdrant: a server, or a folder in local mode."""

import uuid
from typing import Any

from embedrt.bulk.databases.address import Address
from embedrt.bulk.databases.rows import ID, Layout, Rows
from embedrt.bulk.databases.space import FINGERPRINT, check_space
from embedrt.errors import MissingDependencyError

try:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Batch, Distance, VectorParams
except ImportError as error:
    raise MissingDependencyError("The client of Qdrant is not installed; run `pip install qdrant-client`") from error

# Points of a request: 384 coordinates as JSON take 4 KB, and servers take 32 MB.
_POINTS = 512
_PORT = 6333


class Qdrant:
    """A collection. Ids that are strs become UUIDs, and are in the payload as "id".

    Args:
        address: The address; the option "api_key" is the key of a server, "https" is 1 for TLS.
        layout: The columns.

    Raises:
        BulkError: The collection has vectors of another model.
    """

    def __init__(self, address: Address, layout: Layout) -> None:
        self._table = address.table
        if address.host is None:
            self._client = QdrantClient(path=address.path)
        else:
            self._client = QdrantClient(
                host=address.host,
                port=address.port or _PORT,
                api_key=address.options.get("api_key"),
                https=address.options.get("https") == "1",
                prefix=address.path or None,
            )
        if not self._client.collection_exists(self._table):
            self._client.create_collection(
                self._table,
                VectorParams(size=layout.dim, distance=Distance.COSINE),
                metadata={FINGERPRINT: layout.fingerprint},
            )
        config = self._client.get_collection(self._table).config
        check_space(self._table, layout, config.params.vectors.size, (config.metadata or {}).get(FINGERPRINT))

    def upsert(self, rows: Rows) -> None:
        """See `Database`."""
        payloads = rows.others.to_pylist()
        ids: list[Any] = list(rows.ids)
        if ids and isinstance(ids[0], str):
            payloads = [{ID: one, **payload} for one, payload in zip(ids, payloads, strict=True)]
            ids = [str(uuid.uuid5(uuid.NAMESPACE_OID, one)) for one in ids]
        for start in range(0, len(ids), _POINTS):
            some = slice(start, start + _POINTS)
            points = Batch(ids=ids[some], vectors=rows.vectors[some].tolist(), payloads=payloads[some])
            self._client.upsert(self._table, points, wait=True)

    def count(self) -> int:
        """See `Database`."""
        return int(self._client.count(self._table, exact=True).count)

    def close(self) -> None:
        """See `Database`."""
        self._client.close()

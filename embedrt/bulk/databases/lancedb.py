"""LanceDB: a folder, or a URL of an object store."""

from typing import Any

import numpy as np

from embedrt.bulk.arrow import pa
from embedrt.bulk.databases.address import Address
from embedrt.bulk.databases.rows import ID, Layout, Rows
from embedrt.bulk.databases.space import FINGERPRINT, check_space
from embedrt.errors import MissingDependencyError

try:
    import lancedb
except ImportError as error:
    raise MissingDependencyError("LanceDB is not installed; run `pip install lancedb`") from error


class LanceDB:
    """A table.

    Args:
        address: The address: `lancedb:///FOLDER`, or `lancedb://s3/BUCKET/FOLDER` for an object store.
        layout: The columns.

    Raises:
        BulkError: The table has vectors of another model.
    """

    def __init__(self, address: Address, layout: Layout) -> None:
        where = address.path if address.host is None else f"{address.host}:/{address.path}"
        self._schema = pa.schema(
            [
                pa.field(ID, pa.int64() if layout.numbers else pa.string()),
                *layout.others,
                pa.field(layout.vector, pa.list_(pa.float32(), layout.dim)),
            ],
            {FINGERPRINT: layout.fingerprint},
        )
        database: Any = lancedb.connect(where)
        try:
            self._table = database.open_table(address.table)
        except ValueError:  # not there
            self._table = database.create_table(address.table, schema=self._schema, exist_ok=True)
        found = self._table.schema
        kind = found.field(layout.vector).type
        fingerprint = (found.metadata or {}).get(FINGERPRINT.encode())
        check_space(address.table, layout, kind.list_size, fingerprint.decode() if fingerprint else None)

    def upsert(self, rows: Rows) -> None:
        """See `Database`."""
        flat = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1])
        columns = [pa.array(rows.ids, self._schema.field(ID).type), *rows.others.columns, vectors]
        merge = self._table.merge_insert(ID).when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.table(columns, schema=self._schema))

    def count(self) -> int:
        """See `Database`."""
        return int(self._table.count_rows())

    def close(self) -> None:
        """See `Database`."""

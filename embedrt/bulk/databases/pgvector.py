"""PostgreSQL with the extension pgvector."""

from dataclasses import dataclass
from typing import Any

from embedrt.bulk.arrow import pa
from embedrt.bulk.databases.address import Address
from embedrt.bulk.databases.rows import ID, Layout, Rows
from embedrt.bulk.databases.space import FINGERPRINT, check_space
from embedrt.errors import BulkError, MissingDependencyError

try:
    import psycopg
    from psycopg.adapt import Dumper
    from psycopg.pq import Format
    from psycopg.sql import SQL, Composable, Identifier
    from psycopg.types import TypeInfo
    from psycopg.types.json import Jsonb
except ImportError as error:
    raise MissingDependencyError("psycopg is not installed; run `pip install 'psycopg[binary]'`") from error

_NEW = Identifier("embedrt_new")


@dataclass(frozen=True)
class _Vector:
    """A vector in the wire format of pgvector: its length, 0, and floats with the most significant byte first."""

    raw: bytes


class _VectorDumper(Dumper):  # type: ignore[misc]  # psycopg is not in the environment that lints
    """The writer of that format."""

    format = Format.BINARY

    def dump(self, obj: _Vector) -> bytes:
        return obj.raw


class PgVector:
    """A table with the columns `id`, those of the parts, and the vector. It is made if it is not there.

    Args:
        address: The address of a server and a database; options are those of libpq, such as `sslmode`, or `host` for a
            folder with a socket.
        layout: The columns.

    Raises:
        BulkError: The table has vectors of another model, or the server lacks pgvector.
    """

    def __init__(self, address: Address, layout: Layout) -> None:
        self._layout = layout
        self._table = Identifier(*address.table.split("."))
        given = {
            "host": address.host,
            "port": address.port,
            "dbname": address.path.strip("/") or None,
            "user": address.user,
            "password": address.password,
            **address.options,
        }
        self._connection = psycopg.connect(**{name: value for name, value in given.items() if value is not None})
        try:
            self._make()
        except BaseException:
            self._connection.close()
            raise

    def _make(self) -> None:
        layout, connection = self._layout, self._connection
        with connection.transaction():
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
                raise BulkError(f"PostgreSQL has no pgvector: {error}; install the extension on the server") from error
            types = [_type(field.type) for field in layout.others]
            columns = [
                SQL("id {} PRIMARY KEY").format(SQL("bigint" if layout.numbers else "text")),
                *(
                    SQL("{} {}").format(Identifier(field.name), kind)
                    for field, kind in zip(layout.others, types, strict=True)
                ),
                SQL("{} vector({})").format(Identifier(layout.vector), SQL(str(layout.dim))),
            ]
            fresh = connection.execute("SELECT to_regclass(%s)", [self._table.as_string()]).fetchone() == (None,)
            connection.execute(SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(self._table, SQL(", ").join(columns)))
            if fresh:
                made = f"{FINGERPRINT}={layout.fingerprint}"
                connection.execute(SQL("COMMENT ON TABLE {} IS {}").format(self._table, made))
            dim, comment = self._found()
        fingerprint = comment.partition("=")[2] if comment and comment.startswith(f"{FINGERPRINT}=") else None
        check_space(self._table.as_string(), layout, dim, fingerprint)
        info = TypeInfo.fetch(connection, "vector")
        dumper = type("_OfServer", (_VectorDumper,), {"oid": info.oid})
        connection.adapters.register_dumper(_Vector, dumper)
        self._names = [ID, *layout.others.names, layout.vector]
        self._types = ["int8" if layout.numbers else "text", *(kind.as_string() for kind in types), info.oid]

    def _found(self) -> tuple[int, str | None]:
        """The coordinates and the comment of the table."""
        query = (
            "SELECT atttypmod, obj_description(attrelid) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attname = %s"
        )
        found = self._connection.execute(query, [self._table.as_string(), self._layout.vector]).fetchone()
        if found is None:
            raise BulkError(
                f"table {self._table.as_string()}: has no column {self._layout.vector!r}; choose another table"
            )
        return found[0], found[1]

    def upsert(self, rows: Rows) -> None:
        """See `Database`."""
        names = [Identifier(name) for name in self._names]
        listed = SQL(", ").join(names)
        updates = SQL(", ").join(SQL("{} = EXCLUDED.{}").format(name, name) for name in names[1:])
        kinds = [field.type for field in self._layout.others]
        with self._connection.transaction():
            self._connection.execute(
                SQL("CREATE TEMP TABLE {} (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP").format(_NEW, self._table)
            )
            head = rows.vectors.shape[1].to_bytes(2) + b"\0\0"
            raw = rows.vectors.astype(">f4")
            columns = [
                [_value(kind, one) for one in column.to_pylist()]
                for kind, column in zip(kinds, rows.others.columns, strict=True)
            ]
            with (
                self._connection.cursor() as cursor,
                cursor.copy(SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(_NEW, listed)) as copy,
            ):
                copy.set_types(self._types)
                for i, one in enumerate(rows.ids):
                    copy.write_row([one, *(column[i] for column in columns), _Vector(head + raw[i].tobytes())])
            self._connection.execute(
                SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT (id) DO UPDATE SET {}").format(
                    self._table, listed, listed, _NEW, updates
                )
            )

    def count(self) -> int:
        """See `Database`."""
        found = self._connection.execute(SQL("SELECT count(*) FROM {}").format(self._table)).fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """See `Database`."""
        self._connection.close()


def _type(kind: Any) -> Composable:
    """The type of a column; nested ones become JSON."""
    for is_kind, name in (
        (pa.types.is_boolean, "bool"),
        (pa.types.is_integer, "int8"),
        (pa.types.is_floating, "float8"),
        (pa.types.is_date, "date"),
        (pa.types.is_nested, "jsonb"),
    ):
        if is_kind(kind):
            return SQL(name)
    if pa.types.is_timestamp(kind):
        return SQL("timestamptz" if kind.tz else "timestamp")
    return SQL("bytea" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else "text")


def _value(kind: Any, value: Any) -> Any:
    """A value as psycopg writes it."""
    if value is None:
        return None
    if pa.types.is_nested(kind):
        return Jsonb(value)
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value

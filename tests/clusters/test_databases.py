"""Vector databases in folders, and PostgreSQL with pgvector: rows are there once, whatever is written twice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import embedrt.bulk
from embedrt.bulk.databases import DATABASES, Database, open_database
from embedrt.bulk.databases.rows import Layout, Rows, layout_of, rows_of
from embedrt.bulk.options import Meaning
from embedrt.errors import BulkError
from tests.kit.pages import CLUSTER_BLOCKS, INTEGRATION_PAGES, titled_blocks

DIM = 8
MEANING = Meaning(text=("body",), id="id")


def part(ids: list[Any], seed: int = 0, **columns: Any) -> pa.Table:
    """A part with random vectors."""
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIM), np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    return pa.table({"id": ids, "body": [f"text {one}" for one in ids], **columns, "embedding": flat})


def layout_for(table: pa.Table, meaning: Meaning = MEANING, fingerprint: str = "space-1") -> Layout:
    """The layout for parts like a table."""
    return layout_of(table.schema, meaning, fingerprint)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with pgvector, as a URL without a table."""
    folder = tmp_path_factory.mktemp("postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        import pgserver
    server = pgserver.get_server(folder / "data", cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "pgvector://")
    server.cleanup()


@pytest.fixture(params=list(DATABASES))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a table of its own in each database."""
    if request.param != "pgvector":
        return f"{request.param}://{tmp_path}/database?table=texts"
    base: str = request.getfixturevalue("postgres")
    name = "".join(letter if letter.isalnum() else "_" for letter in tmp_path.name.lower())
    return f"{base}{'&' if '?' in base else '?'}table=t_{name}"


@pytest.fixture
def opened() -> Iterator[Callable[[str, Layout], Database]]:
    """Open tables, and close them at the end."""
    databases = []

    def open_one(url: str, layout: Layout) -> Database:
        databases.append(open_database(url, layout))
        return databases[-1]

    yield open_one
    for database in databases:
        database.close()


Opened = Callable[[str, Layout], Database]


def stored(url: str, database: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The rows of a table by id, read with the database's own client."""
    scheme = url.partition(":")[0]
    if scheme == "qdrant":
        points, _ = database._client.scroll("texts", limit=10_000, with_vectors=True)
        return {str((one.payload or {}).get("id", one.id)): (np.float32(one.vector), one.payload) for one in points}
    if scheme == "lancedb":
        rows = database._table.to_arrow().to_pylist()
    elif scheme == "chroma":
        got = database._collection.get(include=["embeddings", "metadatas"])
        return {
            one: (np.float32(vector), metadata or {})
            for one, vector, metadata in zip(got["ids"], got["embeddings"], got["metadatas"], strict=True)
        }
    else:
        from psycopg.rows import dict_row
        from psycopg.sql import SQL

        with database._connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(SQL("SELECT * FROM {}").format(database._table)).fetchall()
        for row in rows:
            row["embedding"] = [float(one) for one in row["embedding"].strip("[]").split(",")]
    return {str(row["id"]): (np.float32(row["embedding"]), row) for row in rows}


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1: Qdrant stores these for the cosine similarity."""
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def assert_rows(url: str, database: Database, rows: Rows) -> None:
    """The table has exactly some rows."""
    found = stored(url, database)
    assert sorted(found) == sorted(str(one) for one in rows.ids)
    assert database.count() == len(rows)
    for one, vector in zip(rows.ids, rows.vectors, strict=True):
        np.testing.assert_allclose(unit(found[str(one)][0]), unit(vector), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ids", [[0, 1, 7, 2**40], ["a", "b/ü", "", "7"]], ids=["numbers", "strings"])
def test_rows_are_there_once_with_their_vectors(url: str, opened: Opened, ids: list[Any]) -> None:
    table = part(
        ids,
        number=[1, None, 3, 4],
        share=[0.5, 1.5, None, 2.5],
        yes=[True, False, None, True],
        tags=[["x"], [], None, ["y", "z"]],
    )
    layout = layout_for(table)
    if "chroma" in url and "" in ids:
        pytest.skip("Chroma takes no empty ids")
    rows = rows_of(table, MEANING, layout, 0)
    database = opened(url, layout)
    database.upsert(rows)
    database.upsert(rows)
    assert_rows(url, database, rows)
    columns = stored(url, database)[str(ids[0])][1]
    assert {name: columns[name] for name in ("body", "number", "share", "yes")} == {
        "body": f"text {ids[0]}",
        "number": 1,
        "share": 0.5,
        "yes": True,
    }


def test_rows_with_the_same_ids_are_replaced(url: str, opened: Opened) -> None:
    table, other = part([1, 2, 3]), part([2, 3, 4], seed=1)
    layout = layout_for(table)
    database = opened(url, layout)
    for one in (table, other):
        database.upsert(rows_of(one, MEANING, layout, 0))
    both = pa.concat_tables([table.slice(0, 1), other])
    assert_rows(url, database, rows_of(both, MEANING, layout, 0))


def test_a_table_is_opened_again(url: str, opened: Opened) -> None:
    table = part(list(range(2000)))
    layout = layout_for(table)
    first = open_database(url, layout)
    first.upsert(rows_of(table.slice(0, 1500), MEANING, layout, 0))
    first.close()
    database = opened(url, layout)
    database.upsert(rows_of(table.slice(1000), MEANING, layout, 0))
    assert_rows(url, database, rows_of(table, MEANING, layout, 0))


def test_another_model_is_refused(url: str) -> None:
    layout = layout_for(part([1]))
    open_database(url, layout).close()
    with pytest.raises(BulkError, match="expected vectors with the fingerprint space-1, got space-2"):
        open_database(url, replace(layout, fingerprint="space-2"))


def test_vectors_of_another_width_are_refused(url: str) -> None:
    layout = layout_for(part([1]))
    open_database(url, layout).close()
    with pytest.raises(BulkError, match="expected vectors of 8 coordinates, got 4"):
        open_database(url, replace(layout, dim=4))


def test_no_rows_change_nothing(url: str, opened: Opened) -> None:
    layout = layout_for(part([1]))
    database = opened(url, layout)
    database.upsert(rows_of(part([1]).slice(0, 0), MEANING, layout, 0))
    assert database.count() == 0


def test_rows_without_an_id_take_their_number() -> None:
    table = part([5, 6, 7]).drop_columns(["id"])
    meaning = Meaning(text=("body",))
    layout = layout_for(table, meaning)
    assert layout.numbers
    assert rows_of(table, meaning, layout, 100).ids == [100, 101, 102]


def test_rows_without_a_vector_are_left_out() -> None:
    table = part([1, 2, 3])
    table = table.set_column(2, "embedding", pa.compute.if_else([True, False, True], table["embedding"], None))
    layout = layout_for(table)
    rows = rows_of(table, MEANING, layout, 0)
    assert rows.ids == [1, 3]
    expected = part([1, 2, 3])["embedding"].combine_chunks().flatten().to_numpy().reshape(3, DIM)
    np.testing.assert_array_equal(rows.vectors, expected[[0, 2]])
    assert rows.others.column_names == ["body"]


@pytest.mark.parametrize("id_", ["id", None])
def test_chunks_have_ids_of_their_own(id_: str | None) -> None:
    table = part([1, 1, 2, 3]).append_column("chunk", pa.array([0, 1, 0, None], pa.int32()))
    meaning = Meaning(text=("body",), id=id_, long_texts="chunks")
    table = table if id_ else table.drop_columns(["id"])
    layout = layout_for(table, meaning)
    table = table.set_column(
        table.column_names.index("embedding"),
        "embedding",
        pa.compute.if_else([True, True, True, False], table["embedding"], None),
    )
    base = 1 if id_ else 20
    assert rows_of(table, meaning, layout, 20).ids == [f"{base}#0", f"{base}#1", f"{base + 1}#0"]


def test_negative_ids_are_an_error() -> None:
    table = part([-1, 1])
    with pytest.raises(BulkError, match="column 'id': expected ids that are not negative, got -1"):
        rows_of(table, MEANING, layout_for(table), 0)


def test_ids_that_are_there_twice_are_an_error() -> None:
    table = part([1, 2, 1])
    with pytest.raises(BulkError, match="column 'id': expected unique ids, got 1 more than once"):
        rows_of(table, MEANING, layout_for(table), 0)


def test_only_dense_vectors_have_a_layout() -> None:
    table = pa.table({"id": [1], "embedding": pa.array([[1, 2]], pa.list_(pa.int8(), 2))})
    with pytest.raises(BulkError, match="column 'embedding': expected fixed-size lists of float32 or float16, got "):
        layout_for(table)


def test_unknown_databases_are_an_error() -> None:
    with pytest.raises(
        ValueError, match="begins with one of qdrant://, lancedb://, chroma://, pgvector://, got 'milvus'"
    ):
        open_database("milvus://host", layout_for(part([1])))


def test_the_guide_to_pgvector(
    postgres: str, minilm_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(minilm_bundle)
    texts = ["The stadium is full.", "Sea otters hold hands while asleep.", "Simmer the onions."]
    pq.write_table(pa.table({"id": [1, 2, 3], "body": texts}), "articles.parquet")
    embedrt.bulk.run("articles.parquet", "vectors/", model="bundle", text="body", id="id")
    (title,) = CLUSTER_BLOCKS
    (code,) = (
        code for page in INTEGRATION_PAGES for name, code in titled_blocks("python", page).items() if name == title
    )
    server = postgres.replace("pgvector://", "postgresql://")
    table = f"{postgres}{'&' if '?' in postgres else '?'}table=articles"
    values: dict[str, Any] = {}
    exec(
        code.replace("pgvector://localhost/shop?table=articles", table).replace("postgresql://localhost/shop", server),
        values,
    )
    assert values["rows"][0][0] == 2
    assert len(values["rows"]) == 3

"""Adapters in real pipelines of Ray Data, Spark and Daft: the vectors are those of `encode`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from embedrt import Embedder

TEXTS = [
    f"the {word} of one boat and {number} texts " * (number % 5) for number, word in enumerate(["dog", "cat"] * 150)
]
ATOL = 1e-6


@pytest.fixture(scope="session")
def expected(tiny: Embedder) -> NDArray[np.float32]:
    """The vectors of the texts."""
    return np.asarray(tiny.encode(TEXTS))


def assert_vectors(ids: list[int], vectors: Any, expected: NDArray[np.float32]) -> None:
    """Every row has its vector, in any order."""
    assert sorted(ids) == list(range(len(TEXTS)))
    np.testing.assert_allclose(np.array(list(vectors), np.float32), expected[ids], rtol=0, atol=ATOL)


@pytest.mark.parametrize("batch_format", ["pyarrow", "numpy", "pandas"])
def test_ray_data(ray_cluster: None, batch_format: str, tiny_bundle: Path, expected: NDArray[np.float32]) -> None:
    import ray

    from embedrt.integrations.ray import Encoder

    table = pd.DataFrame({"id": range(len(TEXTS)), "body": TEXTS})
    done = ray.data.from_pandas([table[:150], table[150:]]).map_batches(
        Encoder,
        fn_constructor_kwargs={"model": str(tiny_bundle), "text": "body"},
        batch_format=batch_format,
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    rows = done.take_all()
    assert set(rows[0]) == {"id", "body", "embedding"}
    assert_vectors([row["id"] for row in rows], [row["embedding"] for row in rows], expected)


def test_a_batch_of_ray_data_without_rows(ray_cluster: None, tiny_bundle: Path) -> None:
    import pyarrow as pa

    from embedrt.integrations.ray import Encoder

    encode = Encoder(tiny_bundle, text="body")
    found = encode(pa.table({"body": pa.array([], pa.string())}))
    assert found.num_rows == 0
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 32)


def test_spark(spark: Any, tiny_bundle: Path, expected: NDArray[np.float32]) -> None:
    from embedrt.integrations.spark import encoder

    frame = spark.createDataFrame([(i, text) for i, text in enumerate(TEXTS)], "id bigint, body string").repartition(3)
    encode = encoder(tiny_bundle, text="body")
    schema = encode.schema(frame)
    assert [field.name for field in schema] == ["id", "body", "embedding"]
    rows = frame.mapInArrow(encode, schema).collect()
    assert_vectors([row.id for row in rows], [row.embedding for row in rows], expected)


def test_spark_with_empty_partitions(spark: Any, tiny_bundle: Path) -> None:
    from embedrt.integrations.spark import encoder

    frame = spark.createDataFrame([(1, "a boat")], "id bigint, body string").repartition(4)
    encode = encoder(tiny_bundle, text="body", keep="id")
    rows = frame.mapInArrow(encode, encode.schema(frame)).collect()
    assert [row.id for row in rows] == [1]
    assert len(rows[0].embedding) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vector_type": "float16"}, "vector_type: expected float32 or int8, got 'float16'"),
        ({"fixed_size": True}, "fixed_size: expected False, got True"),
    ],
)
def test_spark_has_not_every_type(options: dict[str, Any], message: str, tiny_bundle: Path) -> None:
    from embedrt.integrations.spark import encoder

    with pytest.raises(ValueError, match=message):
        encoder(tiny_bundle, text="body", **options)


@pytest.mark.parametrize("dimensions", [None, 16])
def test_daft(dimensions: int | None, tiny_bundle: Path, tiny: Embedder) -> None:
    import daft
    from daft.functions import embed_text

    from embedrt.integrations.daft import EmbedrtProvider

    frame = daft.from_pydict({"id": list(range(len(TEXTS))), "body": TEXTS})
    done = frame.with_column(
        "embedding",
        embed_text(
            daft.col("body"), provider=EmbedrtProvider(), model=str(tiny_bundle), dimensions=dimensions, batch_size=64
        ),
    ).to_pydict()
    assert_vectors(done["id"], done["embedding"], np.asarray(tiny.encode(TEXTS, truncate_dim=dimensions)))


def test_daft_keeps_nulls(tiny_bundle: Path, tiny: Embedder) -> None:
    import daft
    from daft.functions import embed_text

    from embedrt.integrations.daft import EmbedrtProvider

    provider = EmbedrtProvider(prompt="query: ", normalize=True)
    frame = daft.from_pydict({"body": ["a cat", None, ""]})
    done = frame.with_column("embedding", embed_text(daft.col("body"), provider=provider, model=str(tiny_bundle)))
    first, second, third = done.to_pydict()["embedding"]
    assert second is None
    expected = np.asarray(tiny.encode(["a cat", ""], prompt="query: ", normalize_embeddings=True))
    np.testing.assert_allclose(np.array([first, third], np.float32), expected, rtol=0, atol=ATOL)


def test_daft_with_too_many_dimensions(tiny_bundle: Path) -> None:
    import daft
    from daft.functions import embed_text

    from embedrt.integrations.daft import EmbedrtProvider

    with pytest.raises(ValueError, match="dimensions: expected 1 to 32, got 64"):
        embed_text(daft.col("body"), provider=EmbedrtProvider(), model=str(tiny_bundle), dimensions=64)

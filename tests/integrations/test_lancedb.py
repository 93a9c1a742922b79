"""LanceDB in folders: tables opened again, with the same model and with another one."""

import json
import shutil
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

from embedrt import Embedder, EmbeddingsError
from embedrt.integrations import choice
from embedrt.integrations.lancedb import EmbedrtEmbeddings
from tests.kit.clients import Record

TEXTS = ["one cat", "two dogs in the river", "the bank", "a short text"]


def filled(folder: Path, **options: Any) -> Any:
    """A table with the texts."""
    function = get_registry().get("embedrt").create(**options)

    class Row(LanceModel):  # type: ignore[misc]
        body: str | None = function.SourceField()
        vector: Vector(function.ndims()) | None = function.VectorField(default=None)  # type: ignore[valid-type]

    table = lancedb.connect(folder).create_table("texts", schema=Row)
    table.add([{"body": text} for text in TEXTS])
    return table


def vectors(table: Any) -> Any:
    """The stored vectors."""
    return np.stack(table.to_arrow()["vector"].to_numpy())


def test_documents_and_queries_are_told_apart(two_sided_bundle: Path, tmp_path: Path, record: Record) -> None:
    table = filled(tmp_path, model=str(two_sided_bundle))
    model = Embedder(two_sided_bundle)
    documents, query = model.encode_document(TEXTS), model.encode_query(TEXTS[:1])
    found = table.search("one cat").distance_type("dot").limit(4).to_list()
    similarity = model.similarity(query, documents)[0]
    assert [row["body"] for row in found] == [TEXTS[i] for i in np.argsort(-similarity)]
    of_query = np.abs([row["_distance"] for row in found] - np.sort(1 - similarity)).max()
    record(
        "lancedb", lancedb.__version__, "Table.add, .search", max(np.abs(vectors(table) - documents).max(), of_query)
    )


def test_a_table_finds_its_model_again(two_sided_bundle: Path, tmp_path: Path) -> None:
    filled(tmp_path, model=str(two_sided_bundle), truncate_dim=8, normalize=True)
    table = lancedb.connect(tmp_path).open_table("texts")
    (kept,) = json.loads(table.schema.metadata[b"embedding_functions"])
    assert kept["name"] == "embedrt"
    assert kept["model"] == {
        "model": str(two_sided_bundle),
        "truncate_dim": 8,
        "normalize": True,
        "fingerprint": Embedder(two_sided_bundle).fingerprint,
    }
    table.add([{"body": "one cat"}, {"body": None}], on_bad_vectors="null")
    expected = Embedder(two_sided_bundle).encode_document("one cat", truncate_dim=8, normalize_embeddings=True)
    rows = table.to_arrow().to_pylist()
    np.testing.assert_allclose(rows[4]["vector"], expected, rtol=0, atol=1e-6)
    assert rows[5]["vector"] is None


def test_another_model_is_refused(two_sided_bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(two_sided_bundle, bundle)
    filled(tmp_path, model=str(bundle))
    shutil.rmtree(bundle)
    shutil.copytree(other_bundle, bundle)
    choice._opened.cache_clear()  # as in another process
    table = lancedb.connect(tmp_path).open_table("texts")
    message = (
        f"expected the fingerprint {Embedder(two_sided_bundle).fingerprint}, got {Embedder(other_bundle).fingerprint}"
    )
    with pytest.raises(Exception, match=message):  # LanceDB wraps what a function raises
        table.search("one cat").to_list()
    with pytest.raises(Exception, match=message):
        table.add([{"body": "one cat"}])
    with pytest.raises(EmbeddingsError, match=message):
        EmbedrtEmbeddings.create(model=str(bundle), fingerprint=Embedder(two_sided_bundle).fingerprint).ndims()

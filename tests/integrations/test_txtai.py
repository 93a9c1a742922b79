"""txtai without torch: an index in memory, saved, loaded, and opened with another model."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from txtai.embeddings import Embeddings

from embedrt import Embedder
from embedrt.integrations import choice
from tests.kit.clients import Record, max_error

METHOD = "embedrt.integrations.txtai.EmbedrtVectors"
TEXTS = ["one cat", "two dogs in the river", "the bank", "a short text"]


def filled(bundle: Path, **options: Any) -> Any:
    """An index of the texts."""
    embeddings = Embeddings({"path": str(bundle), "method": METHOD, "backend": "numpy", **options})
    embeddings.index(TEXTS)
    return embeddings


def test_documents_and_queries_are_told_apart(two_sided_bundle: Path, record: Record) -> None:
    embeddings, model = filled(two_sided_bundle), Embedder(two_sided_bundle)
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    client = ("txtai", version("txtai"))
    record(*client, "Embeddings.batchtransform", max_error(embeddings.batchtransform(TEXTS, "data"), documents))
    record(*client, "Embeddings.batchtransform", max_error(embeddings.batchtransform(TEXTS, "query"), queries))
    similarity = model.similarity(queries[:1], documents)[0]
    found = embeddings.search("one cat", 4)
    assert [index for index, _ in found] == np.argsort(-similarity).tolist()
    scores = np.sort(similarity)[::-1]
    record(*client, "Embeddings.index, .search", max_error([score for _, score in found], scores))


def test_another_model_is_refused(two_sided_bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(two_sided_bundle, bundle)
    embeddings = filled(bundle, vectors={"truncate_dim": 8})
    assert embeddings.config["vectors"]["fingerprint"] == Embedder(two_sided_bundle).fingerprint
    embeddings.save(str(tmp_path / "index"))
    found = embeddings.search("one cat", 4)
    again = Embeddings()
    again.load(str(tmp_path / "index"))
    assert again.config["dimensions"] == 8
    assert again.search("one cat", 4) == found
    shutil.rmtree(bundle)
    shutil.copytree(other_bundle, bundle)
    choice._opened.cache_clear()  # as in another process
    with pytest.raises(ImportError) as raised:  # txtai wraps what a method raises
        Embeddings().load(str(tmp_path / "index"))
    fingerprints = Embedder(two_sided_bundle).fingerprint, Embedder(other_bundle).fingerprint
    assert "expected the fingerprint {}, got {}".format(*fingerprints) in str(raised.value.__cause__)

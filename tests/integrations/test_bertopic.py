"""BERTopic without torch: topics, saved models, and another model than the one that was saved."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from embedrt import Embedder, EmbeddingsError
from embedrt.integrations import choice
from tests.kit.clients import TEXTS, Record, max_error

GROUPS = (
    [f"the cat and dog number {i} run" for i in range(10)],
    [f"the bank has {i} money" for i in range(10)],
    [f"the boat is on the river {i}" for i in range(10)],
)
DOCUMENTS = [text for group in GROUPS for text in group]


def backend_of(model: str | Embedder, **options: Any) -> Any:
    """The backend. Its module imports BERTopic, and that UMAP, which warns."""
    from embedrt.integrations.bertopic import EmbedrtBackend

    return EmbedrtBackend(model, **options)


def topics_of(model: Any) -> Any:
    """A topic model that is the same at every run."""
    from bertopic import BERTopic

    return BERTopic(embedding_model=model, umap_model=PCA(3), hdbscan_model=KMeans(3, n_init=3, random_state=0))


def test_vectors_are_those_of_the_embedder(two_sided_bundle: Path, record: Record) -> None:
    model = Embedder(two_sided_bundle)
    found = backend_of(str(two_sided_bundle)).embed_documents(TEXTS)
    record("BERTopic", version("bertopic"), "BaseEmbedder.embed", max_error(found, model.encode(TEXTS)))
    short = backend_of(model, truncate_dim=8, normalize=True).embed_words(np.array(TEXTS))
    expected = model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    record("BERTopic", version("bertopic"), "BaseEmbedder.embed", max_error(short, expected))


def test_the_model_is_this_one(minilm: Embedder) -> None:
    backend = backend_of(minilm)
    model = topics_of(backend)
    topics, _ = model.fit_transform(DOCUMENTS)
    assert model.embedding_model is backend
    by_vectors, _ = topics_of(None).fit_transform(DOCUMENTS, minilm.encode(DOCUMENTS))
    assert topics == by_vectors
    assert [len(set(topics[start : start + 10])) for start in (0, 10, 20)] == [1, 1, 1]
    assert model.transform(["dog and cat"])[0] == [topics[0]]


def test_a_saved_model_finds_its_own_again(minilm_bundle: Path, two_sided_bundle: Path, tmp_path: Path) -> None:
    from bertopic import BERTopic

    bundle = tmp_path / "bundle"
    shutil.copytree(minilm_bundle, bundle)
    model = topics_of(backend_of(str(bundle)))
    topics, _ = model.fit_transform(DOCUMENTS)
    model.save(tmp_path / "pickled", serialization="pickle")
    assert (tmp_path / "pickled").stat().st_size < 2**20
    assert list(BERTopic.load(tmp_path / "pickled").transform(DOCUMENTS)[0]) == topics
    shutil.rmtree(bundle)
    shutil.copytree(two_sided_bundle, bundle)
    choice._opened.cache_clear()  # as in another process
    again = BERTopic.load(tmp_path / "pickled")
    with pytest.raises(EmbeddingsError, match="another model made the vectors that are there"):
        again.transform(DOCUMENTS)


def test_a_model_saved_without_its_embeddings_gets_them_when_loaded(minilm: Embedder, tmp_path: Path) -> None:
    from bertopic import BERTopic

    backend = backend_of(minilm)
    model = topics_of(backend)
    model.fit_transform(DOCUMENTS)
    model.save(tmp_path / "saved", serialization="safetensors", save_embedding_model=False)
    again = BERTopic.load(str(tmp_path / "saved"), embedding_model=backend)
    assert again.embedding_model is backend
    words = [(word, pytest.approx(weight)) for word, weight in model.get_topic(0)]
    assert [tuple(one) for one in again.get_topic(0)] == words

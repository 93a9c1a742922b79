"""BERTopic and KeyBERT: topics and keywords of sentence-transformers, with the same texts and seeds."""

from typing import Any

import numpy as np
import pytest
from hdbscan import HDBSCAN
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer

from embedrt import Embedder

# UMAP is not among them: it is not continuous. Vectors that differ in the last bit, as those of sentence-transformers
# do in another batch size, get other topics there.
CLUSTERS = {
    "k-means": lambda: KMeans(12, n_init=3, random_state=42),
    "HDBSCAN": lambda: HDBSCAN(min_cluster_size=4, cluster_selection_method="leaf", prediction_data=True),
}


@pytest.fixture(scope="module")
def documents(entries: list[str]) -> list[str]:
    """Some of the entries, from everywhere."""
    return entries[:: len(entries) // 300][:300]


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_topics(cluster: str, documents: list[str], minilm: Embedder, torch_minilm: Any) -> None:
    from bertopic import BERTopic

    from embedrt.integrations.bertopic import EmbedrtBackend

    found = []
    for backend in (EmbedrtBackend(minilm), torch_minilm):
        model = BERTopic(
            embedding_model=backend,
            umap_model=PCA(5, random_state=42),
            hdbscan_model=CLUSTERS[cluster](),
            vectorizer_model=CountVectorizer(stop_words="english"),
        )
        topics, _ = model.fit_transform(documents)
        words = {topic: [word for word, _ in weighted] for topic, weighted in model.get_topics().items()}
        again, _ = model.transform(documents[:20])
        found.append((list(topics), words, list(again)))
    ours, theirs = found
    assert len(ours[1]) >= 5
    assert ours == theirs


@pytest.mark.parametrize("options", [{}, {"use_mmr": True, "diversity": 0.7}], ids=["nearest", "diverse"])
def test_keywords(options: dict[str, Any], documents: list[str], minilm: Embedder, torch_minilm: Any) -> None:
    from keybert import KeyBERT

    from embedrt.integrations.keybert import EmbedrtBackend

    ours, theirs = (
        KeyBERT(model=model).extract_keywords(documents[:40], top_n=5, **options)
        for model in (EmbedrtBackend(minilm), torch_minilm)
    )
    assert [[word for word, _ in one] for one in ours] == [[word for word, _ in one] for one in theirs]
    found, expected = ([score for one in some for _, score in one] for some in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01e-4)  # KeyBERT rounds them to four digits

"""BERTopic with the model by name and as an object: the same topics as with vectors that were made before."""

import json
import sys

import numpy as np
from bertopic import BERTopic
from sentence_transformers import SentenceTransformer
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer

texts, target = json.loads(sys.argv[1]), sys.argv[2]
model = SentenceTransformer("all-MiniLM-L6-v2")


def topics(embedding_model: object, embeddings: object = None) -> tuple[list[int], dict[int, object], BERTopic]:
    """Topics of the texts, and the words of each."""
    topic_model = BERTopic(
        embedding_model=embedding_model,
        umap_model=PCA(n_components=2, random_state=0),
        hdbscan_model=KMeans(n_clusters=2, random_state=0, n_init=1),
        vectorizer_model=CountVectorizer(),
    )
    found, _ = topic_model.fit_transform(texts, embeddings)
    return list(found), topic_model.get_topics(), topic_model


by_name, by_object, by_vectors = topics("all-MiniLM-L6-v2"), topics(model), topics(model, model.encode(texts))
assert by_name[:2] == by_object[:2] == by_vectors[:2]
assert len(set(by_name[0])) == 2
np.save(target, by_name[2].embedding_model.embed(texts))

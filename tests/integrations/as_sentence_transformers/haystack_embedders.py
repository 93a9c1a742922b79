"""Haystack's embedders of texts and documents."""

import json
import sys

import numpy as np
from haystack import Document
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)

texts, target = json.loads(sys.argv[1]), sys.argv[2]
documents = SentenceTransformersDocumentEmbedder(model="all-MiniLM-L6-v2", progress_bar=False)
queries = SentenceTransformersTextEmbedder(model="all-MiniLM-L6-v2", progress_bar=False)
for embedder in (documents, queries):
    embedder.warm_up()
found = documents.run([Document(content=text) for text in texts])["documents"]
vectors = [document.embedding for document in found]
assert np.abs(np.subtract(queries.run(texts[0])["embedding"], vectors[0])).max() <= 1e-6
np.save(target, vectors)

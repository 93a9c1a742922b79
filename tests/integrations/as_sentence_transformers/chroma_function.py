"""Chroma's embedding function, in a collection."""

import json
import sys

import chromadb
import numpy as np
from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

texts, target = json.loads(sys.argv[1]), sys.argv[2]
function = SentenceTransformerEmbeddingFunction(model_name="all-MiniLM-L6-v2")
collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=function)
collection.add(ids=[str(i) for i in range(len(texts))], documents=texts)
found = collection.query(query_texts=[texts[1]], n_results=1)
assert found["documents"] == [[texts[1]]]
np.save(target, function(texts))

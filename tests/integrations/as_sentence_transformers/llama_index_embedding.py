"""LlamaIndex's embedding by name, with the cache folder that it has."""

import asyncio
import json
import sys

import numpy as np
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

texts, target = json.loads(sys.argv[1]), sys.argv[2]
model = HuggingFaceEmbedding(model_name="all-MiniLM-L6-v2", device="cpu", normalize=False)
vectors = model.get_text_embedding_batch(texts)
assert np.abs(np.subtract(model.get_query_embedding(texts[0]), vectors[0])).max() <= 1e-6
assert np.abs(np.subtract(asyncio.run(model.aget_text_embedding(texts[1])), vectors[1])).max() <= 1e-6
np.save(target, vectors)

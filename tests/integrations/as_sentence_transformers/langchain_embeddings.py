"""LangChain's embeddings by sentence-transformers."""

import json
import sys

import numpy as np
from langchain_huggingface import HuggingFaceEmbeddings

texts, target = json.loads(sys.argv[1]), sys.argv[2]
model = HuggingFaceEmbeddings(
    model_name="all-MiniLM-L6-v2", model_kwargs={"device": "cpu"}, encode_kwargs={"batch_size": 2}
)
vectors = model.embed_documents(texts)
assert np.abs(np.subtract(model.embed_query(texts[0]), vectors[0])).max() <= 1e-6
np.save(target, vectors)

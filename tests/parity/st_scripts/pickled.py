"""Store vectors with their texts, the old way: a pickle, which runs code of whoever wrote it when it is loaded."""

import json
import pickle
from pathlib import Path

from sentence_transformers import SentenceTransformer

model = SentenceTransformer("all-MiniLM-L6-v2")
sentences = ["The ferry leaves at noon.", "He collects old stamps."]
embeddings = model.encode(sentences)

with Path("embeddings.pkl").open("wb") as file:
    pickle.dump({"sentences": sentences, "embeddings": embeddings}, file, protocol=pickle.HIGHEST_PROTOCOL)

with Path("embeddings.pkl").open("rb") as file:
    stored = pickle.load(file)
print(json.dumps({"sentences": stored["sentences"], "embeddings": stored["embeddings"].tolist()}))

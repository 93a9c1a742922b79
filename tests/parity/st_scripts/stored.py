"""Store vectors with their texts so that loading them runs no code and asks whose vectors they are."""

import json

from sentence_transformers import SentenceTransformer

import embedrt

model = SentenceTransformer("all-MiniLM-L6-v2")
sentences = ["The ferry leaves at noon.", "He collects old stamps."]
embeddings = model.encode(sentences)

embedrt.save_embeddings("embeddings.safetensors", sentences, embeddings, model=model)
stored = embedrt.load_embeddings("embeddings.safetensors", model=model)
print(json.dumps({"sentences": list(stored.texts), "embeddings": stored.vectors.tolist()}))

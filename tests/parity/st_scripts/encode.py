"""Load by short name, encode, compare."""

import json

from sentence_transformers import SentenceTransformer

model = SentenceTransformer("all-MiniLM-L6-v2")
sentences = ["The ferry leaves at noon.", "Our boat departs at twelve.", "He collects old stamps."]
embeddings = model.encode(sentences)
similarities = model.similarity(embeddings, embeddings)
for sentence, embedding in zip(sentences, embeddings, strict=True):
    print("Sentence:", sentence)
    print("Embedding:", embedding[:5])
print(
    json.dumps(
        {
            "shape": list(embeddings.shape),
            "embeddings": embeddings.tolist(),
            "similarities": similarities.tolist(),
            "dimension": model.get_embedding_dimension(),
        }
    )
)

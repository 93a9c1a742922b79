"""Encodes a few sentences with the default model and prints how similar they are.

python examples/similarity.py
"""

import embedrt

SENTENCES = [
    "A man is playing the guitar on stage.",
    "Somebody performs music in front of an audience.",
    "The recipe calls for two eggs and a cup of flour.",
    "Beat the eggs, then add the flour.",
]

vectors = embedrt.encode(SENTENCES, normalize_embeddings=True)
print(f"{len(vectors)} vectors of {vectors.shape[1]} dimensions; cosine similarities:\n")
for sentence, row in zip(SENTENCES, vectors @ vectors.T, strict=True):
    print("  ".join(f"{value:5.2f}" for value in row), f"  {sentence}")

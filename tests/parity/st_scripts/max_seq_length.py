"""Read and lower the length at which texts are cut off."""

import json

from sentence_transformers import SentenceTransformer

model = SentenceTransformer("all-MiniLM-L6-v2")
before = model.max_seq_length
text = "brick " * 300
whole = model.encode(text)
model.max_seq_length = 200
cut = model.encode(text)
same = model.encode("brick " * 198)
print(
    json.dumps(
        {
            "before": before,
            "after": model.max_seq_length,
            "whole": whole.tolist(),
            "cut": cut.tolist(),
            "same": same.tolist(),
        }
    )
)

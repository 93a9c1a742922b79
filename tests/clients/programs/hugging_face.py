"""`InferenceClient` of huggingface_hub, which calls the root of the server."""

import json
import sys

from huggingface_hub import InferenceClient

given = json.load(sys.stdin)
texts = given["texts"]
client = InferenceClient(base_url=given["url"])
json.dump(
    {
        "one text": [client.feature_extraction(text, normalize=True)[0].tolist() for text in texts],
        "list": client.feature_extraction(texts, truncate=True).tolist(),
        "similarity": client.sentence_similarity(texts[0], other_sentences=texts[1:]),
    },
    sys.stdout,
)

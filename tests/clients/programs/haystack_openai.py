"""The OpenAI embedders of Haystack."""

import json
import sys
from typing import Any

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret

given = json.load(sys.stdin)
texts = given["texts"]
common: dict[str, Any] = {
    "model": given["model"],
    "api_base_url": f"{given['url']}/v1",
    "api_key": Secret.from_token("none"),
    "max_retries": 0,
}
documents = OpenAIDocumentEmbedder(**common, progress_bar=False, raise_on_failure=True)
made = documents.run([Document(content=text) for text in texts])
query = OpenAITextEmbedder(**common)
json.dump(
    {
        "documents": [document.embedding for document in made["documents"]],
        "usage": made["meta"]["usage"],
        "query": [query.run(text)["embedding"] for text in texts],
    },
    sys.stdout,
)

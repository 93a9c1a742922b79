"""The embedding functions of Chroma that call a server."""

import json
import os
import sys

from chromadb.utils.embedding_functions import (
    HuggingFaceEmbeddingServer,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
)

given = json.load(sys.stdin)
url, model, texts = given["url"], given["model"], given["texts"]
os.environ["CHROMA_OPENAI_API_KEY"] = "none"
server = HuggingFaceEmbeddingServer(url=f"{url}/embed")
openai = OpenAIEmbeddingFunction(model_name=model, api_base=f"{url}/v1")
ollama = OllamaEmbeddingFunction(url=url, model_name=model)
json.dump(
    {
        "server": [vector.tolist() for vector in server(texts)],
        "server many": [vector.tolist() for vector in server(given["many"])],
        "openai": [vector.tolist() for vector in openai(texts)],
        "openai query": [vector.tolist() for vector in openai.embed_query(texts)],
        "ollama": [vector.tolist() for vector in ollama(texts)],
    },
    sys.stdout,
)

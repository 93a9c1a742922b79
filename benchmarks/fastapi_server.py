"""The server that people write themselves: FastAPI around sentence-transformers.

python -m benchmarks.fastapi_server MODEL PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from sentence_transformers import SentenceTransformer


def application(model: SentenceTransformer) -> FastAPI:
    """The application: a thread of the pool encodes each request."""
    app = FastAPI()

    def embeddings(body: dict[str, Any]) -> dict[str, Any]:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        vectors = model.encode(texts).tolist()
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return {"object": "list", "data": data}

    app.post("/v1/embeddings")(embeddings)
    return app


if __name__ == "__main__":
    uvicorn.run(application(SentenceTransformer(sys.argv[1], device="cpu")), port=int(sys.argv[2]), log_level="warning")

"""The APIs that clients speak, one module each. `ENDPOINTS` has all routes."""

from embedrt.server.dialects import cohere, ollama, openai, platforms, rerank, tei, vllm, weaviate
from embedrt.server.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *openai.ENDPOINTS,
    *rerank.ENDPOINTS,
    *cohere.ENDPOINTS,
    *ollama.ENDPOINTS,
    *vllm.ENDPOINTS,
    *tei.ENDPOINTS,
    *platforms.ENDPOINTS,
    *weaviate.ENDPOINTS,
)

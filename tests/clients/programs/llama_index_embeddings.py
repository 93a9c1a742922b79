"""The classes of LlamaIndex for servers with OpenAI's API and for TEI."""

import asyncio
import json
import sys

from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

given = json.load(sys.stdin)
url, model, texts = given["url"], given["model"], given["texts"]
like = OpenAILikeEmbedding(model_name=model, api_base=f"{url}/v1", api_key="none", max_retries=0)
tei = TextEmbeddingsInference(model_name=model, base_url=url)
json.dump(
    {
        "openai-like": like.get_text_embedding_batch(texts),
        "openai-like query": [like.get_query_embedding(text) for text in texts],
        "tei": tei.get_text_embedding_batch(texts),
        "tei query": [tei.get_query_embedding(text) for text in texts],
        "tei async": asyncio.run(tei.aget_text_embedding_batch(texts)),
    },
    sys.stdout,
)

"""Cohere's package: embeddings and reranking."""

import json
import sys

import cohere

given = json.load(sys.stdin)
model, texts, reranker = given["model"], given["texts"], given["reranker"]
client = cohere.ClientV2(api_key="none", base_url=given["url"])
made = client.embed(model=model, texts=texts, input_type="search_document", embedding_types=["float"])
bits = client.embed(model=model, texts=texts, input_type="classification", embedding_types=["binary", "ubinary"])
ranked = client.rerank(model=reranker, query=texts[0], documents=texts[1:], top_n=3)
first = cohere.Client(api_key="none", base_url=given["url"])
old = first.rerank(model=reranker, query=texts[0], documents=texts[1:], return_documents=True)
json.dump(
    {
        "embed": made.embeddings.float_,
        "binary": bits.embeddings.binary,
        "ubinary": bits.embeddings.ubinary,
        "rerank": [[one.index, one.relevance_score] for one in ranked.results],
        "rerank v1": [[one.index, one.relevance_score] for one in old.results],
        "documents v1": [one.document.text for one in old.results if one.document is not None],
    },
    sys.stdout,
)

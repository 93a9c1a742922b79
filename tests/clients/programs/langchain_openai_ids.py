"""`OpenAIEmbeddings` of langchain-openai: token ids of cl100k_base, which it sends by default, and texts."""

import json
import sys
from typing import Any

import openai
from langchain_openai import OpenAIEmbeddings

given = json.load(sys.stdin)
model, texts = given["model"], given["texts"]
common: dict[str, Any] = {"model": model, "base_url": f"{given['url']}/v1", "api_key": "none", "max_retries": 0}
result: dict[str, Any] = {}
try:
    result["token ids"] = OpenAIEmbeddings(**common).embed_documents(texts)
except openai.BadRequestError as error:
    result["token ids"] = {"message": error.message, "code": error.code, "param": error.param}
plain = OpenAIEmbeddings(**common, check_embedding_ctx_length=False)
result["texts"] = plain.embed_documents(texts)
result["query"] = [plain.embed_query(text) for text in texts]
json.dump(result, sys.stdout)

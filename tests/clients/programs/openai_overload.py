"""OpenAI's package with a server that is full."""

import json
import sys

from openai import OpenAI, RateLimitError

given = json.load(sys.stdin)
model, texts = given["model"], given["texts"]
client = OpenAI(base_url=f"{given['url']}/v1", api_key="none", max_retries=0)
try:
    client.embeddings.create(model=model, input=texts)
    raise AssertionError("expected RateLimitError")
except RateLimitError as error:
    refused = {"code": error.code, "type": error.type, "seconds": int(error.response.headers["retry-after"])}
vectors = [client.embeddings.create(model=model, input=text).data[0].embedding for text in texts]
json.dump({"refused": refused, "vectors": vectors}, sys.stdout)

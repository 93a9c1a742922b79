"""Ollama's package."""

import json
import sys

import ollama

given = json.load(sys.stdin)
model, texts = given["model"], given["texts"]
client = ollama.Client(host=given["url"])
made = client.embed(model=model, input=texts)
try:
    client.embed(model="another-model", input=texts)
    unknown = ""
except ollama.ResponseError as error:
    unknown = f"{error.status_code} {error.error}"
json.dump(
    {
        "embed": [list(vector) for vector in made.embeddings],
        "one text": [list(client.embed(model=model, input=text).embeddings[0]) for text in texts],
        "legacy": [list(client.embeddings(model=model, prompt=text).embedding) for text in texts],
        "models": [one.model for one in client.list().models],
        "show": client.show(model).model_dump(mode="json"),
        "unknown": unknown,
    },
    sys.stdout,
)

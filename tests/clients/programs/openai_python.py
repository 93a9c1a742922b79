"""OpenAI's package for Python: base64, which it asks for by default, and floats; the aliases; errors."""

import asyncio
import json
import sys
from typing import Any

from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

given = json.load(sys.stdin)
model, texts = given["model"], given["texts"]
client = OpenAI(base_url=f"{given['url']}/v1", api_key="none", max_retries=0)


def vectors(made: Any) -> list[list[float]]:
    """The vectors of a reply, which are in the order of the texts."""
    assert [one.index for one in made.data] == [*range(len(made.data))]
    return [list(one.embedding) for one in made.data]


def refusal(error: type[BadRequestError | NotFoundError], **wrong: Any) -> dict[str, Any]:
    """Fields of an error that the client reads."""
    try:
        client.embeddings.create(**{"model": model, "input": texts, **wrong})
    except error as raised:
        return {"message": raised.message, "code": raised.code, "param": raised.param, "type": raised.type}
    raise AssertionError(f"expected {error.__name__}")


async def at_once() -> list[list[float]]:
    """One text a request, all at the same time."""
    async with AsyncOpenAI(base_url=f"{given['url']}/v1", api_key="none", max_retries=0) as together:
        made = await asyncio.gather(*(together.embeddings.create(model=model, input=text) for text in texts))
    return [vectors(one)[0] for one in made]


base64 = client.embeddings.create(model=model, input=texts)
json.dump(
    {
        "base64": vectors(base64),
        "float": vectors(client.embeddings.create(model=model, input=texts, encoding_format="float")),
        "one text": [vectors(client.embeddings.create(model=model, input=text))[0] for text in texts],
        "at once": asyncio.run(at_once()),
        "alias": vectors(client.embeddings.create(model=f"{model}:document", input=texts)),
        "dimensions": vectors(client.embeddings.create(model=model, input=texts, dimensions=64)),
        "many": vectors(client.embeddings.create(model=model, input=given["many"])),
        "usage": base64.usage.model_dump(),
        "served": base64.model,
        "models": [one.id for one in client.models.list()],
        "token ids": refusal(BadRequestError, input=[[9906, 1917]]),
        "bad dimensions": refusal(BadRequestError, dimensions=100_000),
        "unknown model": refusal(NotFoundError, model="another-model"),
    },
    sys.stdout,
)

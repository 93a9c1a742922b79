"""The page at `/`: a person types two texts, sees their similarity, and copies the client code for a model."""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal

import msgspec

from embedrt.bundle.manifest import KIND_OF_TASK
from embedrt.server.dialects.openai import error
from embedrt.server.dialects.tei import health
from embedrt.server.endpoint import Dialect, Endpoint, Exchange, Reply
from embedrt.server.replies import json_reply
from embedrt.server.served import ROLES, Served
from embedrt.types import Task

DIALECT = Dialect("embedrt", error)


class PageModel(msgspec.Struct, kw_only=True):
    """A model as the page shows it.

    Attributes:
        name: Its name.
        task: What it computes.
        width: Coordinates of a vector, or labels.
        max_tokens: Tokens that it reads of a text; null is all.
        sides: The sides of a search for which it has a prompt or a route of its own.
    """

    name: str
    task: Task
    width: int
    max_tokens: int | None
    sides: list[Literal["query", "document"]]


async def page(_: None, exchange: Exchange) -> Reply:
    """The page; without it, a health check, as TEI's clients and platforms expect it here."""
    if not exchange.settings.page:
        return await health(None, exchange)
    content, policy = _content()
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
    return Reply((content,), media_type="text/html; charset=utf-8", headers=headers)


async def models(_: None, exchange: Exchange) -> Reply:
    """The models, with what the page needs to know of them."""
    return json_reply([msgspec.to_builtins(_described(served)) for served in exchange.models.served])


def _described(served: Served) -> PageModel:
    manifest = served.model.manifest
    return PageModel(
        name=served.name,
        task=served.task,
        width=manifest.width(KIND_OF_TASK[served.task]),
        max_tokens=served.model.max_seq_length,
        sides=[role for role in ROLES if served.model.prompts.get(role) or role in manifest.routes],
    )


@cache
def _content() -> tuple[bytes, str]:
    """The page, and a policy by which nothing but its own script and style runs."""
    content = files(__name__).joinpath("index.html").read_bytes()

    def hashes(tag: bytes) -> str:
        parts = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(part).digest()).decode()}'" for part in parts)

    policy = (
        f"default-src 'none'; script-src {hashes(b'script')}; style-src {hashes(b'style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return content, policy


ENDPOINTS = (
    Endpoint("GET", "/", page, DIALECT, "Try the models in a browser", public=True),
    Endpoint("GET", "/page/models", models, DIALECT, "List the models for the page", reply=list[PageModel]),
)

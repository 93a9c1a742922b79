"""`RequestError`: a failed request, before a dialect gives it a status and a shape."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "validation",
    "empty",
    "tokenizer",
    "backend",
    "overloaded",
    "timeout",
    "unhealthy",
    "unauthorized",
    "not_found",
    "method",
    "media_type",
    "too_large",
    "truncated",
]

STATUS: dict[Kind, int] = {
    "validation": 400,
    "empty": 400,
    "truncated": 400,
    "tokenizer": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method": 405,
    "too_large": 413,
    "media_type": 415,
    "overloaded": 429,
    "backend": 500,
    "timeout": 503,
    "unhealthy": 503,
}
"""The status of each kind of failure, where a dialect has no other."""


@dataclass(frozen=True)
class Excess:
    """A number that is larger than its limit.

    Attributes:
        given: The number that was found.
        most: The limit.
        unit: What is counted.
    """

    given: int
    most: int
    unit: Literal["tokens", "characters", "items"]


class RequestError(Exception):
    """A request that cannot be answered. The message is for the client: it has no path, no key and no text.

    Args:
        message: Expected, found, remedy.
        kind: The kind of failure, which decides the status.
        param: The field of the request.
        code: A word that programs can test, such as "model_not_found".
        index: The index of the bad item.
        retry_after: Seconds after which to try again.
        excess: What was too much, for APIs with messages of their own for it.
    """

    def __init__(
        self,
        message: str,
        kind: Kind = "validation",
        *,
        param: str | None = None,
        code: str | None = None,
        index: int | None = None,
        retry_after: int | None = None,
        excess: Excess | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind: Kind = kind
        self.param = param
        self.code = code
        self.index = index
        self.retry_after = retry_after
        self.excess = excess


def headers_of(error: RequestError) -> dict[str, str]:
    """Headers that tell clients whether and when to try again: `retry-after`, and `x-should-retry` of OpenAI's."""
    status = STATUS[error.kind]
    if error.retry_after is not None:
        return {"retry-after": str(error.retry_after)}
    if status in {429, 503}:
        return {"retry-after": "1"}
    return {"x-should-retry": "false"} if status >= 500 else {}

"""JSON replies; vectors in blocks, between which other requests have their turn."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedrt.server.endpoint import Reply

# Numbers that are written at a time: about 2 ms.
_BLOCK = 1 << 16


def json_reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply with plain data, and numpy arrays, as JSON."""
    return Reply((to_json(content),), status, headers=headers or {})


def to_json(content: Any) -> bytes:
    """JSON of plain data and numpy arrays; float32 as the shortest decimal number that gives it back."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def base64_floats(vector: NDArray[np.float32]) -> str:
    """The bytes of a vector as base64: float32, little-endian."""
    return b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")


async def json_items(
    items: Sequence[Any] | NDArray[Any],
    before: bytes,
    after: bytes,
    shape: Callable[[int, Any], Any] | None = None,
    *,
    width: int = 1,
) -> tuple[bytes, ...]:
    """The blocks of a JSON array with many items, between two pieces of JSON.

    Args:
        items: The items, such as rows of a matrix.
        before: JSON before the array, such as `{"data":`.
        after: JSON after the array.
        shape: Function from index and item to what is written; None writes the item.
        width: The numbers of an item, by which the blocks are cut.
    """
    blocks, size = [before, b"["], max(1, _BLOCK // max(1, width))
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
            blocks.append(b",")
        part = items[start : start + size]
        if shape is not None:
            part = [shape(start + i, item) for i, item in enumerate(part)]
        elif isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part)
        blocks.append(to_json(part)[1:-1])
    return (*blocks, b"]", after)

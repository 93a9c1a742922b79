"""Damage to files: of their bytes, and of the JSON in them, where typed lies get further than noise."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

_PIECES: tuple[bytes, ...] = (
    b"\0",
    b"\xff",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"-",
    b"1e999",
    b"NaN",
    b"\xed\xa0\x80",
)
_PIECES += (
    b"\xef\xbb\xbf",
    b"\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"99999999999999999999",
)
_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
)
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e38, 3.5e38, 1e308, -1e308)
_STRINGS: tuple[str, ...] = (
    "",
    " ",
    "\0",
    "\n",
    "\ud800",
    "\udfff x",
    "é",
    "漢字",
    "🙂",
    "../../etc/passwd",
    "/dev/zero",
    "C:\\x",
    "a" * 300,
)
_STRINGS += (
    "%s{}",
    "__class__",
    "True",
    "null",
    "0",
    "1e5",
    "\u202e",
    "\x1b[2J",
    "default",
    "float32",
    "query",
    "mean",
)
_REST: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, [0, 1], ["a", "a"], {"a": {"b": []}})
LIES: tuple[Any, ...] = (*_NUMBERS, *_FLOATS, *_STRINGS, *_REST)


def mutate(seed: bytes, others: tuple[bytes, ...], random: Random) -> bytes:
    """One to four changes to a file that may hold JSON."""
    raw = seed
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        raw = _mutate_json(raw, random) if random.random() < 0.6 else _mutate_bytes(raw, others, random)
    return raw


def _mutate_bytes(raw: bytes, others: tuple[bytes, ...], random: Random) -> bytes:  # noqa: PLR0911 - one per kind
    if not raw:
        return random.choice(_PIECES)
    at = random.randrange(min(len(raw), 400)) if random.random() < 0.3 else random.randrange(len(raw))
    length = random.randrange(1, 17) if random.random() < 0.8 else random.randrange(len(raw))
    kind = random.randrange(8)
    if kind == 0:
        return raw[:at] + bytes([raw[at] ^ (1 << random.randrange(8))]) + raw[at + 1 :]
    if kind == 1:
        return raw[:at] + bytes([random.choice((0, 1, 127, 128, 255, random.randrange(256)))]) + raw[at + 1 :]
    if kind == 2:
        return raw[:at]
    if kind == 3:
        return raw[:at] + raw[at + length :]
    if kind == 4:
        return raw[:at] + random.choice(_PIECES) + raw[at:]
    if kind == 5:
        return raw[: at + length] + raw[at:]
    if kind == 6:
        return raw[:at] + random.randbytes(min(length, 16)) + raw[at + length :]
    other = random.choice(others)
    start = random.randrange(len(other) + 1)
    return raw[:at] + other[start : start + length] + raw[at:]


def _mutate_json(raw: bytes, random: Random) -> bytes:
    """A change to the parsed document; what is no JSON is changed as bytes."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return _mutate_bytes(raw, (raw,), random)
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if not places:
        return json.dumps(random.choice(LIES)).encode()
    holder, key = random.choice(places)
    _CHANGES[random.randrange(len(_CHANGES))](holder, key, places, random)
    text = json.dumps(document, ensure_ascii=random.random() < 0.9)
    if random.random() < 0.02:  # duplicate keys cannot be written otherwise
        text = text.replace(', "', f', {json.dumps(str(key))}: {json.dumps(random.choice(LIES))}, "', 1)
    if random.random() < 0.01:
        depth = random.choice((5, 60, 400, 5000))
        text = text.replace("null", "[" * depth + "]" * depth, 1)
    return text.encode("utf-8", "surrogatepass")


def _collect(node: Any, places: list[tuple[Any, Any]]) -> None:
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        places.append((node, key))
        if len(places) < 2000:
            _collect(node[key], places)


_Places = list[tuple[Any, Any]]


def _lie(holder: Any, key: Any, _: _Places, random: Random) -> None:
    holder[key] = random.choice(LIES)


def _lie_of_the_same_type(holder: Any, key: Any, _: _Places, random: Random) -> None:
    """A wrong value that a check of types lets through."""
    value = holder[key]
    choices = [lie for lie in LIES if type(lie) is type(value)]
    holder[key] = random.choice(choices or LIES)


def _shift(holder: Any, key: Any, places: _Places, random: Random) -> None:
    """A number near the right one, or the right type with another length."""
    value = holder[key]
    if type(value) in (int, float):
        holder[key] = value + random.choice((-1, 1, 2, value, -2 * value))
    elif isinstance(value, list):
        holder[key] = value[:-1] if random.random() < 0.5 else value * 2
    elif isinstance(value, str):
        holder[key] = value + random.choice(("x", " ", "\0", "s")) if random.random() < 0.5 else value[:-1]
    else:
        _lie(holder, key, places, random)


def _delete(holder: Any, key: Any, _: _Places, random: Random) -> None:
    del random, holder[key]


def _rename(holder: Any, key: Any, _: _Places, random: Random) -> None:
    if isinstance(holder, dict):
        holder[random.choice([lie for lie in LIES if isinstance(lie, str)])] = holder.pop(key)
    else:
        holder.append(holder[key])


def _swap(holder: Any, key: Any, places: _Places, random: Random) -> None:
    """Two values trade places, also from different depths."""
    other, where = random.choice(places)
    text = json.dumps(holder[key])
    holder[key] = json.loads(json.dumps(other[where]))
    if where in other if isinstance(other, dict) else where < len(other):
        other[where] = json.loads(text)


def _nest(holder: Any, key: Any, _: _Places, random: Random) -> None:
    holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}


_CHANGES: tuple[Callable[[Any, Any, _Places, Random], None], ...] = (
    _lie,
    _lie_of_the_same_type,
    _lie_of_the_same_type,
    _shift,
    _shift,
    _delete,
    _rename,
    _swap,
    _nest,
)

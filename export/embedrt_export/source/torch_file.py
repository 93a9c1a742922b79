"""State dicts in files of `torch.save`, read without torch and without running anything that is in them.

Such a file is a zip archive: a pickle that describes the tensors, and the numbers of each tensor as they are. Here the
pickle is not loaded. Its instructions are followed one by one on a list, and only those that make dicts, tuples, texts,
numbers and descriptions of tensors are known; names of functions stay names.
"""

import math
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64"}
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
# A state dict of a few layers has some kilobytes of instructions; its numbers are elsewhere.
_MOST_INSTRUCTIONS = 1 << 20
_MOST_BYTES = 1 << 32
_MARK = object()
# What zipfile raises on damaged archives.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, KeyError, EOFError, ValueError, OSError, RuntimeError)


class TorchFileError(ValueError):
    """A file is not a state dict, or one of an unknown format."""


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of a state dict.

    Attributes:
        dtype: Its dtype as safetensors names it.
        shape: Its shape.
        raw: Its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]


@dataclass(frozen=True)
class _Name:
    """The name of a class or function, which is never looked up."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """The numbers of a tensor."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class _Described:
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, TorchTensor]:
    """Read a state dict.

    Raises:
        TorchFileError: The file is damaged, is none of `torch.save`, or holds something else than a state dict.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            top = _top(archive)
            described = _follow(_read(archive, f"{top}data.pkl", _MOST_INSTRUCTIONS))
            return {name: _tensor(archive, top, found) for name, found in described.items()}
    except TorchFileError:
        raise
    except _DAMAGED as error:
        raise TorchFileError(f"not a zip archive of torch.save: {error}") from error


def _top(archive: zipfile.ZipFile) -> str:
    """The path of the folder in an archive that has everything."""
    names = archive.namelist()
    top = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
    if top is None:
        raise TorchFileError("it has no data.pkl")
    if f"{top}byteorder" in names and _read(archive, f"{top}byteorder", _MOST_INSTRUCTIONS) != b"little":
        raise TorchFileError("its numbers are not little-endian")
    return top


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if (size := archive.getinfo(name).file_size) > most:
        raise TorchFileError(f"{name} has {size} bytes")
    return archive.read(name)


def _tensor(archive: zipfile.ZipFile, top: str, found: _Described) -> TorchTensor:
    expected = tuple(math.prod(found.shape[i + 1 :]) for i in range(len(found.shape)))
    count, size = math.prod(found.shape), _BYTES[found.storage.dtype]
    if min((*found.shape, found.offset), default=0) < 0 or (found.strides != expected and count > 1):
        raise TorchFileError(f"a tensor of shape {found.shape} is not stored row after row")
    raw = _read(archive, f"{top}data/{found.storage.key}", _MOST_BYTES)
    if (found.offset + count) * size > len(raw):
        raise TorchFileError(f"a tensor of shape {found.shape} is longer than its numbers")
    return TorchTensor(
        found.storage.dtype, found.shape, np.frombuffer(raw, np.uint8)[found.offset * size :][: count * size]
    )


def _follow(pickled: bytes) -> dict[str, _Described]:
    """Follow the instructions of a pickle, and return the dict of tensors that they describe."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for name, argument in _instructions(pickled):
            _INSTRUCTIONS.get(name, _refuse)(stack, memo, argument)
        (found,) = stack
    except TorchFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise TorchFileError(f"its description of the tensors is damaged: {error}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, _Described) for name, value in found.items()
    ):
        raise TorchFileError("expected a dict of tensors")
    return found


def _instructions(pickled: bytes) -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of backslashes in names
        found = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
    yield from (one for one in found if one[0] != "STOP")


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _push(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    stack.append(argument)


def _made(make: Callable[[], Any]) -> Callable[[list[Any], dict[int, Any], Any], None]:
    return lambda stack, memo, argument: stack.append(make())


def _last(count: int) -> Callable[[list[Any], dict[int, Any], Any], None]:
    def make_tuple(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
        items = tuple(stack[-count:])
        if len(items) != count:
            raise IndexError("too few values")
        del stack[-count:]
        stack.append(items)

    return make_tuple


def _put(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    memo[len(memo) if argument is None else argument] = stack[-1]


def _set_items(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    items = _since_mark(stack)
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _set_item(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    value, name = stack.pop(), stack.pop()
    stack[-1][name] = value


def _reduce(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    """A call: of an empty dict, or of a description of a tensor."""
    values, function = stack.pop(), stack.pop()
    if function == _Name("collections OrderedDict") and values == ():
        stack.append({})
    elif function == _Name("torch._utils _rebuild_tensor_v2"):
        storage, offset, shape, strides, *_ = values
        if not isinstance(storage, _Storage) or not all(type(n) is int for n in (offset, *shape, *strides)):
            raise TypeError("a tensor is described by other values")
        stack.append(_Described(storage, offset, tuple(shape), tuple(strides)))
    elif function == _Name("torch._utils _rebuild_parameter") and isinstance(values[0], _Described):
        stack.append(values[0])
    else:
        raise TorchFileError(f"it calls {str(getattr(function, 'text', function))[:80]!r}, which is not allowed")


def _persistent(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    kind, storage, key, _, count = stack.pop()
    name = storage.text.removeprefix("torch ")
    if kind != "storage" or name not in _STORAGES or not isinstance(key, str) or not key.isalnum():
        raise TorchFileError(f"numbers stored as {name[:80]!r} are not supported; expected {', '.join(_STORAGES)}")
    stack.append(_Storage(_STORAGES[name], key, count))


def _build(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    stack.pop()  # versions of the modules


def _stack_global(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_Name(f"{module} {name}"))


def _refuse(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    raise TorchFileError(f"it has an instruction that is not allowed, with the argument {str(argument)[:80]!r}")


_INSTRUCTIONS: dict[str, Callable[[list[Any], dict[int, Any], Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda stack, memo, argument: None),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "INT"), _push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda stack, memo, argument: stack.append(memo[argument])),
    "NONE": _made(lambda: None),
    "NEWTRUE": _made(lambda: True),
    "NEWFALSE": _made(lambda: False),
    "EMPTY_DICT": _made(dict),
    "EMPTY_TUPLE": _made(tuple),
    "MARK": _made(lambda: _MARK),
    "TUPLE": lambda stack, memo, argument: stack.append(tuple(_since_mark(stack))),
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "GLOBAL": lambda stack, memo, argument: stack.append(_Name(argument)),
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": _persistent,
    "REDUCE": _reduce,
    "BUILD": _build,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
}
"""The instructions that are known: `function(stack, memo, argument)`."""

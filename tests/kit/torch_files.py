"""Files of `torch.save` that are made without torch."""

import zipfile
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save_state_dict(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Writes a state dict in float32."""
    items = b"".join(_text(name) + _tensor(i, values.shape) for i, (name, values) in enumerate(tensors.items()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}(" + items + b"u.")
        archive.writestr("x/byteorder", b"little")
        for i, values in enumerate(tensors.values()):
            archive.writestr(f"x/data/{i}", np.ascontiguousarray(values, "<f4").tobytes())


def _tensor(key: int, shape: tuple[int, ...]) -> bytes:
    strides = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key)) + _text("cpu")
    storage += _number(prod(shape)) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + _number(0)
        + _numbers(shape)
        + _numbers(strides)
        + (b"\x89" + hooks + b"tR")
    )


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _number(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little")


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"

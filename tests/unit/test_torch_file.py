"""State dicts of torch.save, read without torch: real files, and files that would run something."""

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt.errors import ExportError
from embedrt_export.source.torch_file import TorchFileError, read_state_dict
from embedrt_export.source.weights import Weights, open_tensors
from tests.kit.late_models import LATE_REFERENCE

SPARSE = LATE_REFERENCE / "sparse_linear.pt"


def write(path: Path, pickled: bytes, more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, content in (more or {}).items():
            archive.writestr(f"x/{name}", content)
    return path


def test_real_files() -> None:
    found = read_state_dict(SPARSE)
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        "weight": ("F32", (1, 32)),
        "bias": ("F32", (1,)),
    }
    with Weights(LATE_REFERENCE, files=[LATE_REFERENCE / "colbert_linear.pt"]) as weights:
        assert weights.matrix_shape("weight") == (16, 32)
        values = weights("weight", 16, 32)
    assert 0.2 < values.std() < 0.4
    assert values.astype(np.float16).astype(np.float32).tolist() == values.tolist()


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "x.pt", pickle.dumps({"weight": Touch(tmp_path / "touched")}, protocol))
    with pytest.raises(TorchFileError, match="not allowed"):
        read_state_dict(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["weight"], "not allowed"),
        ("weight", "expected a dict of tensors"),
        ({"weight": 1}, "expected a dict of tensors"),
        (OrderedDict(weight=OrderedDict()), "expected a dict of tensors"),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(TorchFileError, match=message):
        read_state_dict(write(tmp_path / "x.pt", pickle.dumps(content, 2)))


def test_an_empty_state_dict(tmp_path: Path) -> None:
    assert read_state_dict(write(tmp_path / "x.pt", pickle.dumps(OrderedDict(), 2))) == {}


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no archive")
    with pytest.raises(ExportError, match=r"x\.pt: not a state dict of torch\.save: not a zip archive .* get the file"):
        open_tensors(tmp_path / "x.pt")
    write(tmp_path / "x.pt", b"")
    with pytest.raises(ExportError, match=r"x\.pt: not a state dict"):
        open_tensors(tmp_path / "x.pt")


def test_numbers_in_another_order(tmp_path: Path) -> None:
    with zipfile.ZipFile(SPARSE) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    pickled = members.pop("data.pkl")
    with pytest.raises(TorchFileError, match="little-endian"):
        read_state_dict(write(tmp_path / "x.pt", pickled, {**members, "byteorder": b"big"}))
    with pytest.raises(TorchFileError, match="longer than its numbers"):
        read_state_dict(write(tmp_path / "x.pt", pickled, {**members, "data/0": b"\0" * 8}))
    with pytest.raises(TorchFileError, match="not a zip archive"):
        read_state_dict(write(tmp_path / "x.pt", pickled))


@given(st.data())
def test_damaged_files_are_errors(data: st.DataObject) -> None:
    content = bytearray(SPARSE.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with contextlib.suppress(TorchFileError):
        read_state_dict(file)  # type: ignore[arg-type]  # zipfile takes both


@given(st.binary(max_size=60))
def test_any_instructions_are_errors_or_nothing(instructions: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}" + instructions + b".")
    with contextlib.suppress(TorchFileError):
        read_state_dict(file)  # type: ignore[arg-type]


def test_a_name_with_a_backslash(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pt", b"\x80\x02c\\collections\nOrdered\\Dict\n)R.")
    with pytest.raises(TorchFileError, match="not allowed"):
        read_state_dict(path)

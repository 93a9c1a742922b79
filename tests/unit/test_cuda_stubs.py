"""The builder of stub CUDA libraries: the functions that it finds, and what it says where it cannot work."""

import shutil
from pathlib import Path

import pytest

from tests.cuda.stubs import StubError, build_stubs, cuda_functions, provider_library

LISTING = """                 U cudaMalloc@libcudart.so.13
                 U cublasCreate_v2@libcublas.so.13
                 U cublasLtCreate@libcublasLt.so.13
                 U curandCreateGenerator
                 U cuTensorMapEncodeTiled
                 U memcpy@GLIBC_2.14
                 w __cxa_finalize
"""


def test_functions_are_found_by_library() -> None:
    found = cuda_functions(LISTING)
    assert found["libcudart.so.13"] == ["cudaMalloc"]
    assert found["libcublas.so.13"] == ["cublasCreate_v2"]
    assert found["libcublasLt.so.13"] == ["cublasLtCreate"]
    assert found["libcurand.so.10"] == ["curandCreateGenerator"]
    assert {"cuTensorMapEncodeTiled", "cuModuleLoadData"} <= set(found["libcuda.so.1"])
    assert len(found) == 5


@pytest.mark.parametrize("missing", ["gcc", "nm"])
def test_a_missing_tool_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/bin/{name}")
    with pytest.raises(StubError, match=f"expected the program {missing}"):
        build_stubs(tmp_path / "provider.so", tmp_path / "stubs")


def test_the_cpu_wheel_has_no_cuda_provider(tmp_path: Path) -> None:
    with pytest.raises(StubError, match="install onnxruntime-gpu"):
        provider_library(tmp_path)

"""The stub CUDA libraries, loaded once per process."""

from pathlib import Path

import pytest

from tests.cuda.stubs import StubCuda, load_stubs


@pytest.fixture(scope="session", autouse=True)
def stubs(tmp_path_factory: pytest.TempPathFactory) -> StubCuda:
    """Stub libraries under a CUDA provider that takes them for a card."""
    return load_stubs(tmp_path_factory.mktemp("stubs"))


@pytest.fixture(autouse=True)
def cuda(stubs: StubCuda) -> StubCuda:
    """One card of compute capability 9.0; a test may choose another one."""
    stubs.configure(capability=90, devices=1)
    return stubs


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The path of a graph to write."""
    return tmp_path / "graph.onnx"

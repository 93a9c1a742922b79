"""Adapters without their frameworks: the error that names the package, and the models that they share."""

import json
import pickle
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import embedrt.integrations
from embedrt import CrossEncoder, Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.integrations.reranking import Reranker
from tests.kit.pages import ROOT, text

SHARED = {"__init__", "choice", "reranking"}
FOLDER = Path(embedrt.integrations.__file__).parent
# The package that each adapter imports, where it is not called like the adapter.
FRAMEWORKS = {
    "chroma": "chromadb",
    "langchain": "langchain_core",
    "qdrant": "fastembed",
    "spark": "pyspark",
}
ADAPTERS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


@pytest.fixture
def fresh_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Adapters that were imported before are imported again."""
    for name in ADAPTERS:
        monkeypatch.delitem(sys.modules, f"embedrt.integrations.{name}", raising=False)
    yield
    for name in ADAPTERS:
        sys.modules.pop(f"embedrt.integrations.{name}", None)


@pytest.mark.usefixtures("fresh_modules")
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_framework_that_is_not_installed_is_named(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, FRAMEWORKS.get(adapter, adapter), None)
    with pytest.raises(MissingDependencyError, match=r"is not installed; run `pip install [\w'\[\]-]+`"):
        import_module(f"embedrt.integrations.{adapter}")


def test_every_adapter_is_in_the_overview() -> None:
    page = text(ROOT / "docs" / "guides" / "frameworks.md")
    assert [name for name in ADAPTERS if f"| `embedrt.integrations.{name}` |" not in page] == []


def test_an_open_model_is_stored_with_its_dimensions(tiny_bundle: Path) -> None:
    short = Choice(Embedder(tiny_bundle, truncate_dim=8))
    again = Choice(**json.loads(json.dumps(short.config())))
    assert again.dim == 8
    assert again.encode_query(["a text"]).tolist() == short.encode_query(["a text"]).tolist()
    assert Choice(Embedder(tiny_bundle)).config()["truncate_dim"] is None


def test_a_reranker_of_one_name_is_opened_once(reranker_bundle: Path) -> None:
    first, second = Reranker(reranker_bundle), Reranker(reranker_bundle)
    assert first.encoder is second.encoder
    assert Reranker(reranker_bundle, threads=1).encoder is not first.encoder
    assert pickle.loads(pickle.dumps(first)).encoder is first.encoder
    assert Reranker(**json.loads(json.dumps(first.config()))).rank("q", ["a", "b"], 1) == first.rank("q", ["a", "b"], 1)


def test_an_open_reranker_is_not_stored(reranker_bundle: Path) -> None:
    opened = CrossEncoder(reranker_bundle)
    given = Reranker(opened)
    assert given.encoder is opened
    assert pickle.loads(pickle.dumps(given)).rank("q", ["a"], None) == given.rank("q", ["a"], None)
    with pytest.raises(ValueError, match="expected a name, which can be stored, got an open model"):
        given.config()
    with pytest.raises(ValueError, match="device, dtype, threads: an open model has its own; leave them out"):
        Reranker(opened, threads=1)

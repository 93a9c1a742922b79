"""Frameworks as packages, without torch: models for them, and their warnings that only they can mend."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import CrossEncoder, Embedder
from tests.kit.clients import TEXTS

os.environ.update(
    {
        "ANONYMIZED_TELEMETRY": "False",
        "DO_NOT_TRACK": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LANGSMITH_TRACING": "false",
        "MEM0_TELEMETRY": "False",
    }
)
# Warnings of the packages about each other, by the name of the framework: of its module `test_NAME.py`, and of the
# blocks with its title in the guides.
WARNINGS: dict[str, list[str]] = {
    "bertopic": ["ignore:Tensorflow not installed:ImportWarning"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a framework do not see the warnings that only the framework can mend."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            callspec = getattr(item, "callspec", None)
            name = callspec.id if callspec is not None and item.path.stem == "test_guides" else item.path.stem
            for ignored in WARNINGS.get(name.removeprefix("test_").replace(" ", "_").lower(), []):
                item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture
def event_loop() -> Iterator[None]:
    """An event loop, for frameworks whose blocking methods would make one and leave it open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="session")
def own_minilm_bundle(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to make links of: a link changes the time of a file, which another process may be hashing."""
    return shutil.copytree(minilm_bundle, tmp_path_factory.mktemp("own") / "bundle")


@pytest.fixture(scope="session")
def queries(minilm: Embedder) -> NDArray[np.float32]:
    """The vectors of the texts as queries."""
    return np.asarray(minilm.encode_query(TEXTS))


@pytest.fixture(scope="session")
def documents(minilm: Embedder) -> NDArray[np.float32]:
    """The vectors of the texts as documents."""
    return np.asarray(minilm.encode_document(TEXTS))


@pytest.fixture(scope="session")
def two_sided(two_sided_bundle: Path) -> Embedder:
    """That model, loaded. A text has another vector as a query than as a document."""
    return Embedder(two_sided_bundle)


@pytest.fixture(scope="session")
def reranker(reranker_bundle: Path) -> CrossEncoder:
    """A small cross-encoder, loaded."""
    return CrossEncoder(reranker_bundle)

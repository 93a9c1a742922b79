"""Live comparisons with torch, transformers and sentence-transformers, and nothing from the network.

The errors that they measure are the table in docs/models.md, which `make table` writes.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedrt.compat import is_active

os.environ["HF_HUB_OFFLINE"] = "1"
assert not is_active(), "the reference would be embedrt itself"

_ERRORS: dict[str, dict[str, dict[str, float]]] = {}


@pytest.fixture(autouse=True)
def _one_core(one_core: None) -> None:
    """Torch has one thread in each process, and embedrt too."""


@pytest.fixture
def record_error() -> Callable[[str, str, float, float], None]:
    """Notes the worst error of a family or module, to the reference and by batch."""

    def note(kind: str, name: str, error: float, by_batch: float) -> None:
        _ERRORS.setdefault(kind, {})[name] = {"error": error, "by_batch": by_batch}

    return note


@pytest.fixture(scope="session", autouse=True)
def write_errors() -> Iterator[None]:
    """Writes what was noted to the file that `EMBEDRT_ERRORS` names."""
    yield
    if path := os.environ.get("EMBEDRT_ERRORS"):
        Path(path).write_text(json.dumps(_ERRORS, indent=1), encoding="utf-8")

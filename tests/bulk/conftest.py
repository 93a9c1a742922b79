"""Fixtures: a table of texts, and transforms of tiny models."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedrt.bulk.options import Meaning, ModelChoice
from embedrt.bulk.transform import Transform

TEXTS = ["the dog, the cat.", "", "river bank! money", "a boat on the river", "the dog, the cat.", "größe 🙂"]

# Modules that start other processes, or stop them.
SEVERAL = {"test_ends", "test_job", "test_scale"}


@pytest.fixture(autouse=True)
def _one_core(request: pytest.FixtureRequest) -> None:
    if request.path.stem not in SEVERAL:
        request.getfixturevalue("one_core")


@pytest.fixture
def table() -> Any:
    """Some texts with ids and numbers."""
    return pa.table({"id": range(6), "body": TEXTS, "score": [0.5, None, 2.0, 3.0, 4.0, 5.0]})


def transform(bundle: Path, **meaning: Any) -> Transform:
    """A transform of a bundle."""
    return Transform(ModelChoice(str(bundle)), Meaning(**meaning))

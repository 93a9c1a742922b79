"""A core for each process of the run: results do not depend on the number of threads, which test_golden.py shows."""

import pytest


@pytest.fixture(autouse=True)
def _one_core(request: pytest.FixtureRequest) -> None:
    if request.path.stem != "test_golden":
        request.getfixturevalue("one_core")

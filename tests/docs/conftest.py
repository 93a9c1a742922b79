"""A core for each process of the run, and for the commands and pages that it runs: their threads would only spin."""

import pytest


@pytest.fixture(autouse=True)
def _one_core(request: pytest.FixtureRequest) -> None:
    if request.path.stem != "test_many_cores":
        request.getfixturevalue("one_core")

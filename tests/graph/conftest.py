"""Exports of small models, thousands of them: the number of threads makes no difference to a graph."""

import pytest


@pytest.fixture(autouse=True)
def _one_core(one_core: None) -> None:
    pass

"""The encode API call by call against sentence-transformers, with torch installed: real tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest

from embedrt import Embedder
from tests.kit.api_cases import CASES, VARIANTS, Arguments, Case
from tests.kit.api_differences import expected
from tests.kit.api_models import loader
from tests.kit.api_outcomes import TOLERANCE, Outcome, differences, outcome, worst_error
from tests.kit.api_reference import reference


@pytest.fixture(scope="module")
def models(minilm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Arguments], Embedder]:
    return loader(minilm_source, tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def theirs(minilm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Outcome]:
    return reference(minilm_source, tmp_path_factory.mktemp("reference"))


def has_processes(case: Case) -> bool:
    arguments = case.arguments or {}
    return isinstance(arguments.get("device"), list) or arguments.get("pool") is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_calls(variant: str, models: Callable[[str, Arguments], Embedder], theirs: Callable[[Case], Outcome]) -> None:
    """All calls but those that start processes, of which the golden files have what sentence-transformers gives."""
    wrong, worst = [], 0.0
    for case in CASES:
        if case.variant == variant and not has_processes(case):
            wanted, _ = expected(case, theirs(case), torch=True)
            found = outcome(models, case)
            wrong += [f"{case}{difference}" for difference in differences(found, wanted)]
            worst = max(worst, worst_error(found.result, wanted.result))
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:20]])
    assert 0 < worst <= TOLERANCE

"""The encode API call by call: embedrt gives what sentence-transformers gave, or what the table of differences says.

`make golden` writes what sentence-transformers gave; tests/live/test_api.py compares with it live.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from tests.kit.api_cases import CASES, VARIANTS, Arguments, covering
from tests.kit.api_differences import DIFFERENCES, WITHOUT_TORCH, expected, page
from tests.kit.api_models import loader
from tests.kit.api_outcomes import TOLERANCE, Array, Failure, Outcome, differences, load, outcome, worst_error

Loader = Callable[[str, Arguments], Embedder]

GOLDEN = load()


@pytest.fixture(scope="module")
def models(minilm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return loader(minilm_source, tmp_path_factory.mktemp("api"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_calls(variant: str, models: Loader) -> None:
    wrong, worst = [], 0.0
    for case in CASES:
        if case.variant == variant:
            wanted, _ = expected(case, GOLDEN[str(case)], torch=False)
            found = outcome(models, case)
            wrong += [f"{case}{difference}" for difference in differences(found, wanted)]
            worst = max(worst, worst_error(found.result, wanted.result))
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:20]])
    assert 0 < worst <= TOLERANCE


def test_the_cases_are_those_that_were_made() -> None:
    assert [str(case) for case in CASES] == list(GOLDEN)


def test_there_are_enough_of_them() -> None:
    """Calls that run to their end without torch, by what they get."""
    kinds = Counter(
        type(wanted.result).__name__
        for case in CASES
        if not isinstance((wanted := expected(case, GOLDEN[str(case)], torch=False)[0]).result, Failure)
    )
    assert kinds["Array"] > 900
    assert sum(kinds.values()) > 1200


def test_every_difference_is_seen() -> None:
    seen = Counter(name for case in CASES for name in expected(case, GOLDEN[str(case)], torch=False)[1])
    assert set(seen) == {row.what for row in [*DIFFERENCES, WITHOUT_TORCH]}


def test_the_docs_have_the_table() -> None:
    written = (Path(__file__).parents[2] / "docs" / "reference" / "differences.md").read_text(encoding="utf-8")
    assert written == page(), "python -m tests.kit.api_differences > docs/reference/differences.md"


def test_most_calls_do_not_differ() -> None:
    same = [case for case in CASES if not expected(case, GOLDEN[str(case)], torch=True)[1]]
    assert len(same) > 1000


def test_values_of_parameters_meet() -> None:
    parameters: dict[str, list[Any]] = {"a": [1, 2, 3], "b": [1, 2], "c": [1, 2, 3, 4], "d": [1, 2]}
    rows = covering(parameters, 0)
    assert len(rows) < 18
    for (one, values), (other, more) in combinations(parameters.items(), 2):
        assert {(row[one], row[other]) for row in rows} == set(product(values, more))


def wrong_outcomes(right: Outcome) -> Iterator[Outcome]:
    """Outcomes that are not the right one, each for one small reason."""
    array = right.result
    values = array.values
    yield replace(right, warnings=("DeprecationWarning",))
    yield replace(right, result=Failure(("ValueError", "Exception")))
    yield replace(right, result=None)
    yield replace(right, result=[array])
    yield replace(right, result=Array("torch", values))
    yield replace(right, result=Array("numpy", values[..., :-1]))
    yield replace(right, result=Array("numpy", values[np.newaxis]))
    yield replace(right, result=Array("numpy", values.astype(np.float64)))
    changed = values.copy()
    if values.dtype.kind == "f":
        changed.flat[-1] += 1e-5 * max(1, np.linalg.norm(values, axis=-1).max())
        yield replace(right, result=Array("numpy", changed))
        changed = values.copy()
        changed.flat[0] = np.nan
    else:
        changed.flat[0] ^= 2
    yield replace(right, result=Array("numpy", changed))


def test_wrong_outcomes_are_found() -> None:
    some = [case for case in CASES if isinstance(GOLDEN[str(case)].result, Array)][::7]
    for case in some:
        right = GOLDEN[str(case)]
        if right.result.container == "numpy" and right.result.values.size:
            assert not list(differences(right, right))
            for wrong in wrong_outcomes(right):
                assert list(differences(wrong, right)), f"{case}: {wrong}"


def test_a_quantized_value_may_differ_at_an_edge_only() -> None:
    """Another bucket or bit is excused where the float vector lies on the edge between the two, and nowhere else."""
    excused, checked = 0, 0
    for case in CASES:
        right = GOLDEN[str(case)]
        if isinstance(right.floats, Array) and right.result.container == "numpy" and right.result.values.size:
            values = right.result.values
            changed = values ^ 1  # the next bucket, or the last bit of the byte
            for found in differences(replace(right, result=Array("numpy", changed)), right):
                excused -= int(found.split(" of ")[0].removeprefix(": "))
            excused += values.size
            checked += values.size
    assert checked > 10_000
    assert 0 < excused < checked / 3

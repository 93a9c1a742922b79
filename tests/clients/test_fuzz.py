"""A short run of random requests to every route; `make fuzz-server` is a long one."""

import random
from pathlib import Path

import pytest

from tests.clients.fuzz import counting, make_bundles, run
from tests.kit.shared_folders import shared_folder


def test_random_requests_have_described_replies_and_no_error_of_the_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundles = shared_folder(tmp_path_factory, "clients/fuzz", make_bundles)
    seed = random.randrange(10**6)
    with counting(bundles) as (server, counts):
        failure = run(server, tmp_path, seed=seed, examples=20, phases="fuzzing")
    assert not failure, f"seed {seed}\n{failure}"
    assert not counts.failed, f"seed {seed}: {counts.failed}"
    assert counts.requests > 400
    assert {200, 400, 422} <= set(counts.statuses)

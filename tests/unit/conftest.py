"""A core for each process of the run, but where threads and cores are what is tested."""

import pytest

# Modules that start threads of their own, count cores, or measure.
SEVERAL = {
    "test_bench",
    "test_candidates",
    "test_coalescing",
    "test_interrupts",
    "test_machine",
    "test_numa",
    "test_one_thread",
    "test_openvino",
    "test_patience",
    "test_queue",
    "test_runner",
    "test_several",
    "test_short_memory",
    "test_streaming",
    "test_threads",
    "test_tuned",
    "test_tuning",
}


@pytest.fixture(autouse=True)
def _one_core(request: pytest.FixtureRequest) -> None:
    if request.path.stem not in SEVERAL:
        request.getfixturevalue("one_core")

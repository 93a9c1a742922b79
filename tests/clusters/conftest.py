"""Real engines on this machine: one cluster of Ray and one session of Spark for all tests of a process."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.pages import ROOT

os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_register_timeout_seconds": "300",  # on a busy machine its processes start slowly
        "DAFT_ANALYTICS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "ANONYMIZED_TELEMETRY": "False",
    }
)
# Workers import what tests define.
os.environ["PYTHONPATH"] = str(ROOT)
os.environ["PYSPARK_PYTHON"] = sys.executable


# Warnings of the packages about each other.
IGNORED = [
    "ignore:PySpark does not yet fully support pandas",
    "ignore::DeprecationWarning:ray.data.context",  # Ray Data reads its own old options
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests see no warnings that only the packages can mend."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for ignored in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with two CPUs."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """Spark with two slots, whose tasks are tried again."""
    if shutil.which("java") is None:
        pytest.skip("Spark needs a Java runtime, such as Debian's default-jre-headless")
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2,4]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "1g")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(params=["ray", "spark"])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine, running."""
    request.getfixturevalue({"ray": "ray_cluster", "spark": "spark"}[request.param])
    name: str = request.param
    return name

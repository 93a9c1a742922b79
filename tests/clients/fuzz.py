"""Random requests to every route, made by schemathesis from the OpenAPI document; `make fuzz-server`.

Right and wrong bodies, parameters and methods. No reply may have a status of 500 or more, and every reply must have the
described form. Models are small and random: what is tested is the server.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from embedrt.server.observers import Ended
from embedrt.server.settings import ModelSettings, Settings
from embedrt_export import export
from tests.clients.conftest import PYTHON
from tests.kit import late_models, score_models, sparse_models
from tests.kit.models import make_model
from tests.kit.server import Running, serving

CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance"
# Examples of a route in one run of schemathesis; a run starts in two seconds.
EXAMPLES = 60


@dataclass
class Counts:
    """Replies of the server by status."""

    statuses: Counter[int] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)

    def observe(self, ended: Ended) -> None:
        """Count one."""
        self.statuses[ended.status] += 1
        if ended.status >= 500:
            self.failed.add(f"{ended.status} {ended.exchange.path}")

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.statuses.values())


def make_bundles(folder: Path) -> None:
    """Write a small model of each task."""
    sources = {
        "embed": make_model,
        "score": score_models.MODELS["sigmoid"],
        "sparse": sparse_models.splade,
        "multi-vector": late_models.fixed,
    }
    for name, write in sources.items():
        made = write(folder / "models" / name)
        export(made or folder / "models" / name, folder / name)


@contextmanager
def counting(bundles: Path) -> Iterator[tuple[Running, Counts]]:
    """A server with small models of all tasks, and the counts of its replies."""
    names = ("embed", "score", "sparse", "multi-vector")
    counts = Counts()
    with serving(Settings(tuple(ModelSettings(name, str(bundles / name)) for name in names))) as running:
        running.state.observers = (*running.state.observers, counts.observe)
        yield running, counts


def run(server: Running, folder: Path, *, seed: int, examples: int = EXAMPLES, phases: str = "coverage,fuzzing") -> str:
    """The output of one run of schemathesis if it found a failure, else nothing."""
    command = [
        str(PYTHON.with_name("schemathesis")),
        "run",
        f"{server.url}/openapi.json",
        *("--checks", CHECKS),
        *("--phases", phases),
        *("--max-examples", str(examples)),
        *("--seed", str(seed)),
        *("--generation-database", "none"),
        *("--warnings", "off"),
        *("--request-timeout", "120"),  # a busy machine is slow, and that is no failure
        "--no-color",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    return "" if done.returncode == 0 else done.stdout[-8000:] + done.stderr[-2000:]


def main() -> int:
    """Send requests until there are enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_bundles(folder)
        with counting(folder) as (server, counts):
            seed = given.seed
            while counts.requests < given.requests:
                failure = run(server, folder, seed=seed)
                print(f"seed {seed}: {counts.requests} requests, {dict(sorted(counts.statuses.items()))}", flush=True)
                if failure or counts.failed:
                    print(failure, *sorted(counts.failed), sep="\n")
                    return 1
                seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

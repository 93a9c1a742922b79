"""The table of clients: the error of each to embedrt, as its test measures it, and the page that shows the table."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.kit.pages import ROOT

TABLE = ROOT / "tests" / "reference" / "clients.json"
PAGE = ROOT / "docs" / "clients.md"
# Names the file that tests append to.
VARIABLE = "EMBEDRT_CLIENTS_TABLE"
TOLERANCE = 1e-6
# What every client gets.
TEXTS = [
    "Sea otters hold hands while they sleep.",
    "How do otters sleep?",
    "The stadium is full of people, and it rains.",
    "Ein Hund läuft über die Straße.",
    "猫は窓辺で眠る。",
    "word " * 300,  # more than the model reads
]
HEAD = """\
# Clients

Each row is a test with the real package: its vectors are compared with those of `Embedder` for the same texts, and
scores with those of `CrossEncoder`. The error is the max absolute error of a number; 0 means equal bit for bit. The
tolerance is 1e-6, and 1e-5 where another engine computes, as in browsers. `make clients-table` writes this page.

| client | version | called | error | test |
|---|---|---|---|---|
"""


@dataclass(frozen=True, order=True)
class Row:
    """A row of the table.

    Attributes:
        client: Name of the client, as its users write it.
        version: The client's package and its version.
        called: The class or function of the client, or the route of the server.
        error: The largest absolute error in this run of the tests.
        test: Path of the test's module.
    """

    client: str
    version: str
    called: str
    error: float
    test: str


class Record(Protocol):
    """Assert that the error of a client is within the tolerance, and add a row to the table."""

    def __call__(
        self, client: str, version: str, called: str, error: float, *, tolerance: float = TOLERANCE
    ) -> None: ...


def recorder(test: str) -> Record:
    """The function `record` for the tests of a module.

    Args:
        test: Path of the module.
    """

    def record(client: str, version: str, called: str, error: float, *, tolerance: float = TOLERANCE) -> None:
        assert error <= tolerance, f"{client} {version}, {called}: error {error:.2e}, above {tolerance:.0e}"
        if VARIABLE in os.environ:
            line = json.dumps(asdict(Row(client, version, called, float(error), test)), ensure_ascii=False)
            with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    return record


def max_error(found: Any, expected: Any) -> float:
    """The largest absolute difference between two arrays or nested lists of the same shape, as float32."""
    ours, theirs = np.asarray(expected, np.float32), np.asarray(found, np.float32)
    assert theirs.shape == ours.shape, f"expected the shape {ours.shape}, found {theirs.shape}"
    return float(np.abs(theirs - ours, dtype=np.float64).max())


def package_version(name: str, environment: Path | None = None) -> str:
    """A Python package and its version, in this environment or in the one of a folder."""
    if environment is None:
        return f"{name} {metadata.version(name)}"
    folders = [str(folder) for folder in environment.glob("**/site-packages")]
    return f"{name} {next(iter(metadata.distributions(name=name, path=folders))).version}"


def npm_version(name: str, folder: Path) -> str:
    """An npm package and its version, which a folder has below `node_modules`."""
    return f"{name} {json.loads((folder / 'node_modules' / name / 'package.json').read_bytes())['version']}"


def read_rows(path: Path) -> list[Row]:
    """The rows of a file with one JSON object a line."""
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def merge(known: Iterable[Row], measured: Iterable[Row]) -> list[Row]:
    """Rows in the order of the page. What was measured replaces all rows of the same test modules.

    A call that several tests measure gets the largest error.
    """
    new: dict[tuple[str, str, str, str], Row] = {}
    for row in sorted(measured):
        new[row.client, row.version, row.called, row.test] = row  # sorted by error, the largest last
    tests = {row.test for row in new.values()}
    kept = [row for row in known if row.test not in tests]
    return sorted([*kept, *new.values()], key=lambda row: (row.client.lower(), row.called.lower(), row.test))


def render(rows: Iterable[Row]) -> str:
    """The page."""
    lines = [
        f"| {row.client} | {row.version} | {row.called} | {f'{row.error:.1e}' if row.error else '0'} | `{row.test}` |\n"
        for row in rows
    ]
    return HEAD + "".join(lines)

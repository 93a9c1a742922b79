"""A slice of the fuzzing, with another seed each time; `make fuzz` runs it at length."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import randbits

import pytest

from embedrt import BundleError
from tests.endurance import fuzz
from tests.endurance.targets import Target, make_targets

# Inputs per thousand shares of a target, and seed.
INPUTS = 150
NAMES = (
    "manifest",
    "load",
    "tokenizer",
    "parity",
    "tuned",
    "verified",
    "config",
    "modules",
    "safetensors",
    "torch-file",
    "multi-vector",
    "shards",
    "build-tokenizer",
    "export",
    "npy",
    "vectors-safetensors",
    "parquet",
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    logger = logging.getLogger("embedrt")
    level = logger.level
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz")
        patch.setenv("EMBEDRT_HOME", str(folder / "home"))
        yield {target.name: target for target in make_targets(folder)}
    logger.setLevel(level)  # the targets are silent


@pytest.mark.parametrize("name", NAMES)
def test_only_errors_of_embedrt_come_out(
    targets: dict[str, Target], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert set(targets) == set(NAMES)
    monkeypatch.setenv("EMBEDRT_HOME", str(next(iter(targets["verified"].files)).parent))
    for seed in (0, randbits(32)):
        *_, outcome = fuzz.run_inputs(targets[name], seed, range(INPUTS))
        for number, told in outcome.failures:
            path, content = fuzz.draw(targets[name], seed, number)
            stored = tmp_path / f"{name}+{seed}+{number}+{path.name}"
            stored.write_bytes(content)
            pytest.fail(f"seed {seed}, input {number}, stored as {stored}\n{told}")
        assert outcome.inputs == INPUTS


def test_inputs_follow_from_the_seed(targets: dict[str, Target]) -> None:
    target = targets["manifest"]
    inputs = [fuzz.draw(target, 5, number) for number in range(50)]
    assert inputs == [fuzz.draw(target, 5, number) for number in range(50)]
    assert len({content for _, content in inputs}) > 45
    assert inputs != [fuzz.draw(target, 6, number) for number in range(50)]


def test_other_errors_are_failures(tmp_path: Path) -> None:
    """Also those that are no Exception, and messages that no log can hold."""
    path = tmp_path / "file"

    def read(_: Path) -> None:
        content = path.read_bytes()
        if content == b"key":
            raise KeyError("x")
        if content == b"exit":
            raise SystemExit(1)
        if content == b"surrogate":
            raise BundleError("\ud800")
        if content == b"bundle":
            raise BundleError("x")

    target = Target("x", {path: (b"ok",)}, read, 1)
    assert [bool(fuzz.failure(target, path, content)[0]) for content in (b"key", b"exit", b"surrogate")] == [True] * 3
    assert fuzz.failure(target, path, b"bundle") == ("", False)
    assert fuzz.failure(target, path, b"ok") == ("", True)
    assert path.read_bytes() == b"ok"


MORTAL = """
import sys
first, end = map(int, sys.argv[3:5])
for number in range(first, end):
    if (number - first) % 100 == 0:
        print(number, flush=True)
    if number == 230:
        sys.stderr.write("fatal")
        sys.exit(3)
print('{"inputs": %d, "accepted": 1}' % (end - first))
"""


@pytest.mark.subprocess
def test_a_process_that_dies_costs_one_input() -> None:
    outcome = fuzz.run_processes("x", 1, range(400), (sys.executable, "-c", MORTAL))
    assert outcome.inputs == 400
    assert outcome.failures == [(230, "the process ended with status 3\nfatal")]


@pytest.mark.subprocess
def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EMBEDRT_HOME", str(tmp_path / "home"))
    assert fuzz.fuzz(20, 1, ["verified"], tmp_path / "findings") == 0
    assert "20 inputs in" in capfd.readouterr().out
    stored = tmp_path / "verified+1+0+verified.json"
    stored.write_bytes(b"{")
    assert fuzz.replay(stored) == 0

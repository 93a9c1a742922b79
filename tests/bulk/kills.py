"""Kill loops of bulk jobs: runs are killed at random moments, then run again; every row must be there exactly once.

    python -m tests.bulk.kills --kills 60 --seed 0

A process is killed by SIGKILL at one of its steps on the disk (a file opened for writing, a rename, a deletion, ...),
or after a random time, one to three times in a row, with one run or two shards at once. Then the job is run to its
end, and checked: all rows, in order, each with the vector of `encode`, and no other file.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from embedrt import export
from tests.bulk import jobs
from tests.endurance.kills import CHILD, COMMAND
from tests.kit.models import make_model

_TIMEOUT_S = 300
_SHARDS = ((), ("--shard", "1/2"), ("--shard", "2/2"))


@dataclass(frozen=True)
class Given:
    """The model, the source, and the vectors.

    Attributes:
        bundle: The bundle.
        source: The folder with the source.
        texts: Its texts.
        vectors: Their vectors.
        steps: Steps on the disk of a whole run.
        seconds: Seconds of a whole run.
    """

    bundle: Path
    source: Path
    texts: list[str]
    vectors: Any
    steps: int
    seconds: float


def _start(given: Given, target: Path, limit: int, *options: str) -> subprocess.Popen[str]:
    """A run that kills itself at a step on the disk; 0 for none."""
    arguments = ["bulk", str(given.source), str(target), "--model", str(given.bundle), "--text", "text"]
    command = [sys.executable, "-c", CHILD, str(limit), COMMAND, *arguments, "--part-rows", "10", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def _end(process: subprocess.Popen[str], after_s: float | None = None) -> tuple[int, str, str]:
    """The exit status and the output of a run, killed after a time unless that is None."""
    with process:
        try:
            out, error = process.communicate(timeout=_TIMEOUT_S if after_s is None else after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, error = process.communicate()
            assert after_s is not None, f"a run takes longer than {_TIMEOUT_S} s: {error}"
    return process.returncode, out, error


def kill_once(draw: random.Random, given: Given, target: Path) -> None:
    """Kill runs of a job at random, then let it end.

    Raises:
        AssertionError: A run ended otherwise than by the kill, or the result is not what it must be.
    """
    for _ in range(draw.randint(1, 3)):
        shards = draw.choice((_SHARDS[:1], _SHARDS[1:]))
        limits = [draw.choice((0, draw.randint(1, given.steps))) for _ in shards]
        started = [_start(given, target, limit, *shard) for shard, limit in zip(shards, limits, strict=True)]
        for process, limit in zip(started, limits, strict=True):
            status, _, error = _end(process, None if limit else draw.uniform(0.0, given.seconds))
            assert status in {0, -signal.SIGKILL}, f"ended with {status}: {error[-800:]}"
    status, _, error = _end(_start(given, target, 0))
    assert status == 0, f"the last run ended with {status}: {error[-800:]}"
    jobs.require_whole(target, given.texts, given.vectors)


def prepare(folder: Path) -> Given:
    """A model and a source, and a run without kills."""
    bundle = export(make_model(folder / "model"), folder / "bundle")
    texts = jobs.write_source(folder / "in")
    given = Given(bundle, folder / "in", texts, jobs.vectors_of(bundle, texts), 0, 0.0)
    started = time.monotonic()
    status, out, error = _end(_start(given, folder / "out", 0))
    assert status == 0, error
    jobs.require_whole(folder / "out", texts, given.vectors)
    steps = re.search(r"^steps (\d+)$", out, re.MULTILINE)
    assert steps is not None, out
    return Given(bundle, folder / "in", texts, given.vectors, int(steps[1]), time.monotonic() - started)


def run(kills: int, seed: int, act: Callable[[random.Random, Given, Path], None] = kill_once) -> list[str]:
    """Kill jobs in turn; return the findings."""
    draw = random.Random(seed)
    findings = []
    with tempfile.TemporaryDirectory() as name:
        given = prepare(Path(name))
        for i in tqdm(range(kills), unit="job", disable=not sys.stderr.isatty()):
            try:
                act(draw, given, Path(name) / f"out-{i}")
            except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
                place = traceback.format_tb(error.__traceback__)[-1].strip()
                findings.append(f"job {i} of seed {seed}: {type(error).__name__}: {error}\n{place}")
                print(findings[-1], flush=True)
    return findings


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="jobs, each killed one to three times")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    findings = run(arguments.kills, arguments.seed)
    print(f"{arguments.kills} jobs in {time.monotonic() - started:.0f} s, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

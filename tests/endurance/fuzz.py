"""Fuzzing of every reader of untrusted files: only embedrt's own errors may come out of them.

    python -m tests.endurance.fuzz --inputs 1000000 --seed 1

Each input follows from the seed, the target and its number. A failing one is stored with all three in its name, and
`--replay FILE` reads it again. Targets run in processes of their own, 20,000 inputs at a time, so that a crash or a
hang costs one of them, and memory cannot add up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from secrets import randbits

from embedrt import EmbedrtError
from tests.endurance.targets import Target, make_targets

_PROGRAM = (sys.executable, "-m", "tests.endurance.fuzz")
_CHUNK = 20_000
_LEAST = 20_000  # inputs of a target in a whole run
_SILENT_S = 60  # without a sign of life
_MEMORY = 4 << 30  # address space of a process that reads inputs, beyond what it has at the start


@dataclass
class Outcome:
    """Inputs of one target.

    Attributes:
        inputs: Number of inputs.
        accepted: Number of those that were read without an error.
        seconds: Time that the reader took, without drawing and writing the inputs.
        slowest: The longest time of one input.
        slowest_input: Its number.
        peak_mb: Peak memory of the process.
        failures: Each with the number of the input and the traceback.
    """

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_input: int = 0
    peak_mb: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.seconds += other.seconds
        self.peak_mb = max(self.peak_mb, other.peak_mb)
        self.failures += other.failures
        if other.slowest > self.slowest:
            self.slowest, self.slowest_input = other.slowest, other.slowest_input


def draw(target: Target, seed: int, number: int) -> tuple[Path, bytes]:
    """One input."""
    return target.draw(Random(f"{seed} {target.name} {number}"))


def failure(target: Target, path: Path, content: bytes) -> tuple[str, bool]:
    """The traceback of an input that fails to be read in another way than with one of embedrt's errors.

    Returns:
        The traceback, or an empty one, and True if the file was read without an error.
    """
    try:
        target.try_out(path, content)
    except EmbedrtError as error:
        try:
            str(error).encode()  # who logs it needs that
        except UnicodeEncodeError:
            return f"{type(error).__name__} with a message that is not Unicode: {str(error)[:300]!r}", False
        return "", False
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a panic of Rust code is no Exception
        return traceback.format_exc(), False
    return "", True


def run_inputs(target: Target, seed: int, numbers: range) -> Iterator[Outcome]:
    """Read inputs; yields the outcome so far after each."""
    outcome = Outcome()
    for number in numbers:
        path, content = draw(target, seed, number)
        started = time.perf_counter()
        told, accepted = failure(target, path, content)
        took = time.perf_counter() - started
        outcome.inputs += 1
        outcome.accepted += accepted
        outcome.seconds += took
        if took > outcome.slowest:
            outcome.slowest, outcome.slowest_input = took, number
        if told:
            outcome.failures.append((number, told))
        yield outcome


def _work(name: str, seed: int, numbers: range) -> None:
    """The process that reads inputs: a line for a hundred or a second, and the outcome as the last."""
    import resource

    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        os.environ["EMBEDRT_HOME"] = f"{folder}/home"
        target = next(target for target in make_targets(Path(folder)) if target.name == name)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, -1))
        outcome, shown = Outcome(), 0.0
        for outcome in run_inputs(target, seed, numbers):
            if outcome.inputs % 100 == 1 or time.perf_counter() - shown > 1:
                shown = time.perf_counter()
                print(numbers.start + outcome.inputs - 1, flush=True)
        outcome.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(asdict(outcome)), flush=True)


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _kill_if_silent(process: subprocess.Popen[str], alive: threading.Event) -> None:
    while alive.wait(_SILENT_S) and process.poll() is None:
        alive.clear()
    process.kill()


def run_processes(name: str, seed: int, numbers: range, program: tuple[str, ...] = _PROGRAM) -> Outcome:
    """Read inputs in a process. If it dies or hangs, the inputs after the last sign of life are read one by one."""
    arguments = ["--work", name, str(numbers.start), str(numbers.stop), "--seed", str(seed)]
    reached, last = numbers.start, ""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        alive = threading.Event()
        watchdog = threading.Thread(target=_kill_if_silent, args=(process, alive))
        watchdog.start()
        for line in process.stdout:
            alive.set()
            last = line
            reached = int(line) if line.strip().isdigit() else reached
        status = process.wait()
        alive.set()
        watchdog.join()
        errors.seek(0)
        told = errors.read().decode(errors="replace")[-2000:]
    if status == 0 and last.startswith("{"):
        return Outcome(**json.loads(last))
    if len(numbers) == 1:
        how = "it hung" if status == -9 else f"the process ended with status {status}"
        return Outcome(1, failures=[(numbers.start, f"{how}\n{told}")])
    outcome = Outcome()
    end = min(reached + 100, numbers.stop)
    for part in (
        range(numbers.start, reached),
        *(range(i, i + 1) for i in range(reached, end)),
        range(end, numbers.stop),
    ):
        if part:
            outcome.add(run_processes(name, seed, part, program))
    return outcome


def fuzz(inputs: int, seed: int, names: list[str], findings: Path) -> int:
    """Run all targets, print a line for each, store what failed; returns the number of failures."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        os.environ["EMBEDRT_HOME"] = f"{folder}/home"
        targets = [target for target in make_targets(Path(folder)) if target.name in names or not names]
        shares = sum(target.share for target in targets)
        print(f"seed {seed}")
        print(f"{'target':20} {'inputs':>8} {'read':>8} {'per s':>7} {'slowest':>9} {'peak MB':>8} failed", flush=True)
        total, failed, began = 0, 0, time.perf_counter()
        for target in targets:
            count = max(inputs * target.share // shares, min(_LEAST, inputs // (2 * len(targets))))
            outcome = Outcome()
            for start in range(0, count, _CHUNK):
                outcome.add(run_processes(target.name, seed, range(start, min(start + _CHUNK, count))))
            speed = outcome.inputs / max(outcome.seconds, 1e-9)
            figures = f"{outcome.inputs:8} {outcome.accepted:8} {speed:7.0f} {outcome.slowest * 1000:6.0f} ms"
            shown = f"{target.name:20} {figures} {outcome.peak_mb:8} {len(outcome.failures)}"
            print(f"{shown}  (slowest: {outcome.slowest_input})", flush=True)
            _store(target, seed, outcome, findings)
            total, failed = total + outcome.inputs, failed + len(outcome.failures)
        print(f"{total} inputs in {time.perf_counter() - began:.0f} s, {failed} failed", flush=True)
    return failed


def _store(target: Target, seed: int, outcome: Outcome, findings: Path) -> None:
    """Write the first input of every kind of failure, and print its last lines."""
    kinds: dict[str, tuple[int, str]] = {}
    for number, told in outcome.failures:
        frames = [line for line in told.splitlines() if line.startswith("  File")]
        kinds.setdefault(f"{frames[-1:]} {told.strip().splitlines()[-1].partition(':')[0]}", (number, told))
    for number, told in kinds.values():
        path, content = draw(target, seed, number)
        findings.mkdir(parents=True, exist_ok=True)
        stored = findings / f"{target.name}+{seed}+{number}+{path.name}"
        stored.write_bytes(content)
        print(f"--- {stored}\n{told[-1500:]}", flush=True)


def replay(stored: Path) -> int:
    """Read a stored input again; returns 1 if it still fails."""
    name = stored.name.split("+")[0]
    file = stored.name.split("+")[3]
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        os.environ["EMBEDRT_HOME"] = f"{folder}/home"
        target = next(target for target in make_targets(Path(folder)) if target.name == name)
        path = next(path for path in target.files if path.name == file)
        told, accepted = failure(target, path, stored.read_bytes())
    print(told or ("read without an error" if accepted else "one of embedrt's errors"))
    return int(bool(told))


def main() -> int:
    parser = argparse.ArgumentParser(description="Damage files and read them.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all; every target gets 20,000 at least")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--target", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for failing inputs")
    parser.add_argument("--replay", type=Path, help="a stored input to read again")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seed = randbits(32) if arguments.seed is None else arguments.seed
    if arguments.replay:
        return replay(arguments.replay)
    if arguments.work:
        name, start, stop = arguments.work
        _work(name, seed, range(int(start), int(stop)))
        return 0
    return int(fuzz(arguments.inputs, seed, arguments.target, arguments.findings) > 0)


if __name__ == "__main__":
    sys.exit(main())

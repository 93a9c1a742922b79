"""Worker processes, as the parent sees them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from embedrt.bench.engines import PREPARATIONS, Engine
from embedrt.bench.peers import Files
from embedrt.compat import real_environment

_WORKER = Path(__file__).with_name("worker.py")
# No engine may ask the network: the model is here. Nor may it tell others about us.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def engine_worker(engine: Engine, files: Files, cores: int | None = None) -> "Worker":
    """One engine in a process of its own.

    Args:
        engine: The engine.
        files: The files that it loads.
        cores: How many it may use; None for all.
    """
    job = {"load": engine.load, "options": dict(engine.options), "cores": cores, "files": _paths(files)}
    return Worker(_python(engine), "-P", str(_WORKER), json.dumps(job))


def prepare(engines: Mapping[str, Engine], files: Files) -> dict[str, str]:
    """Make the files that engines need, unless they are there, each in a process of its own.

    Args:
        engines: By name.
        files: `files.prepared` is where they go.

    Returns:
        Why an engine cannot run, by engine.
    """
    failed: dict[str, str] = {}
    errors: dict[str, str | None] = {}
    for name, engine in engines.items():
        if engine.needs is None:
            continue
        if engine.needs not in errors:
            is_there = (files.prepared / engine.needs).exists()
            errors[engine.needs] = None if is_there else _make(engine.needs, files, _python(engine))
        if (error := errors[engine.needs]) is not None:
            failed[name] = f"could not make {engine.needs}: {error}"
    return failed


def _make(need: str, files: Files, python: str) -> str | None:
    files.prepared.mkdir(parents=True, exist_ok=True)
    made = PREPARATIONS[need]
    job = {
        "make": need,
        "file": made.file,
        "function": made.function,
        "options": dict(made.options),
        "files": _paths(files),
    }
    done = subprocess.run(
        [python, "-P", str(_WORKER), json.dumps(job)],
        env={**real_environment(), **OFFLINE},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stderr.strip()[-500:] if done.returncode else None


def _python(engine: Engine) -> str:
    return sys.executable if engine.python is None else os.environ[engine.python]


def _paths(files: Files) -> list[str | None]:
    """The paths whole, as the worker may have another working folder."""
    return [None if path is None else str(path.resolve()) for path in (files.model, files.bundle, files.prepared)]


class WorkerError(Exception):
    """An engine failed: it could not be loaded, raised an error, or its process died."""


class Worker:
    """A process that answers requests. It starts to load at once; the first request waits for that.

    Args:
        command: The program with its arguments.
        folder: The working folder; None keeps this one.
    """

    def __init__(self, *command: str, folder: Path | None = None) -> None:
        self._mark: tuple[float, float | None] | None = _now()
        self._cpu_seconds = 0.0
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env={**real_environment(), **OFFLINE},
        )

    def ask(self, task: str, *, limit: float | None = None, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer, but at most `limit` seconds; then the process is killed.

        To the answer it adds

        - `wall_seconds`: how long that took, for the first request since the process was started;
        - `other_cores`: how many cores everything but this engine used meanwhile; None where that is not known.

        Raises:
            WorkerError: With what the engine said, or the end of what it printed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        start, busy = self._mark or _now()
        with contextlib.suppress(BrokenPipeError):  # a dead process gives no answer below
            self._process.stdin.write(json.dumps({"task": task, **request}).encode() + b"\n")
            self._process.stdin.flush()
        with _killing(self._process, limit):
            line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            cause = "killed: it took too long, or memory ran out" if status == -9 else f"exit status {status}"
            raise WorkerError(f"the process ended ({cause}): {self._printed()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        end, busy_at_end = _now()
        own = answer["process_cpu_seconds"] - self._cpu_seconds
        self._mark, self._cpu_seconds = None, answer["process_cpu_seconds"]
        others = None
        if busy is not None and busy_at_end is not None:
            others = max(0.0, busy_at_end - busy - own) / (end - start)
        return {**answer, "wall_seconds": end - start, "other_cores": others}

    def close(self) -> None:
        """End the process and wait for its end, so that its memory is free for the next."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-500:].strip()


@contextlib.contextmanager
def _killing(process: subprocess.Popen[bytes], limit: float | None) -> Iterator[None]:
    """Kill a process after so many seconds; None waits."""
    if limit is None:
        yield
        return
    timer = threading.Timer(limit, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _now() -> tuple[float, float | None]:
    """The time, and the seconds that all cores together have worked since the system started; None if not known."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:  # not Linux, or hidden in a container
        return time.perf_counter(), None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return time.perf_counter(), (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

"""A server in a process of its own, for what signals and limits of a process do.

python -m tests.kit.server_process SETTINGS.json
"""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedrt.server.settings import Limits, ModelSettings, Settings

_WAIT_S = 60


def read_settings(path: Path) -> Settings:
    """Settings from JSON."""
    raw = json.loads(path.read_text())
    raw.pop("descriptors", None)
    models = tuple(ModelSettings(**one) for one in raw.pop("models"))
    raw |= {name: Path(raw[name]) for name in ("socket", "key_file") if name in raw}
    return Settings(models, limits=Limits(**raw.pop("limits", {})), **raw)


@dataclasses.dataclass(frozen=True)
class Process:
    """A server in a process of its own.

    Attributes:
        process: The process.
        settings: Its settings, which it reads again on SIGHUP.
        lines: What it wrote so far.
        written: Notified of every line.
        reading: Set while what it writes is read.
    """

    process: subprocess.Popen[str]
    settings: Path
    lines: list[str]
    written: threading.Condition
    reading: threading.Event

    @property
    def port(self) -> int:
        """The port that it listens on."""
        found = re.search(r" on http://127.0.0.1:(\d+)", self.wait_for(r" on http://"))
        assert found is not None
        return int(found[1])

    def wait_for(self, pattern: str) -> str:
        """The first line with a pattern."""
        end = time.monotonic() + _WAIT_S
        with self.written:
            while True:
                for line in self.lines:
                    if re.search(pattern, line):
                        return line
                left = end - time.monotonic()
                assert left > 0, f"no line with {pattern!r} in {self.lines}"
                assert self.process.poll() is None, f"the server ended: {self.lines}"
                self.written.wait(min(left, 0.1))

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(_WAIT_S)

    def rewrite(self, **changes: Any) -> None:
        """Change settings."""
        self.settings.write_text(json.dumps({**json.loads(self.settings.read_text()), **changes}))


@contextmanager
def process(folder: Path, models: dict[str, Path], **settings: Any) -> Iterator[Process]:
    """Run a server with models by name."""
    path = folder / "settings.json"
    listed = [{"name": name, "source": str(bundle)} for name, bundle in models.items()]
    path.write_text(json.dumps({"models": listed, "port": 0, "threads": 1, **settings}))
    command = [sys.executable, "-m", "tests.kit.server_process", str(path)]
    with running(command, path) as one:
        yield one


@contextmanager
def running(command: list[str], path: Path, **environment: str) -> Iterator[Process]:
    """Run a command that serves.

    Args:
        command: The command.
        path: Its settings.
        environment: More environment variables.
    """
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}) as started:
        one = Process(started, path, [], threading.Condition(), threading.Event())
        one.reading.set()
        reader = threading.Thread(target=_collect, args=(one,))
        reader.start()
        try:
            yield one
        finally:
            started.kill()
            one.reading.set()
            reader.join()


def _collect(one: Process) -> None:
    assert one.process.stderr is not None
    for line in one.process.stderr:
        one.reading.wait()
        with one.written:
            one.lines.append(line)
            one.written.notify_all()


def main() -> int:
    """Serve what the file says."""
    from embedrt.server.serving import run

    path = Path(sys.argv[1])
    if limit := json.loads(path.read_text()).pop("descriptors", None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return run(read_settings(path), lambda: read_settings(path))


if __name__ == "__main__":
    sys.exit(main())

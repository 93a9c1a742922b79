"""Processes that use the hub of a test, each with a home of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.hub_server import Hub

# The client reads its environment when it is imported, so every environment is a process; commands may share one.
COMMANDS = """
import contextlib, io, json, sys
from embedrt.cli.main import main
finished = []
for arguments in json.loads(sys.argv[1]):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(arguments)
    finished.append([status, output.getvalue(), errors.getvalue()])
print(json.dumps(finished))
"""


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    output: str
    errors: str

    def succeeded(self) -> str:
        assert self.status == 0, self.errors
        return self.output

    def refused(self) -> str:
        """The message of a command that failed in an orderly way."""
        assert (self.status, self.output) == (1, ""), self.errors
        assert "Traceback" not in self.errors
        return self.errors[self.errors.rindex("embedrt: ") :]


class Client:
    """Processes with a home of their own, whose hub is the one of this test."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub, self.home = hub, home
        self.store = home / "store" / "bundles"

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EMBEDRT_"))}
        own = {
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "EMBEDRT_HOME": str(self.home / "store"),
            "no_proxy": "127.0.0.1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            env={**kept, **own, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def commands(self, *commands: Sequence[str], **environment: str) -> list[Finished]:
        """Runs commands of the command line, one after the other."""
        result = self.python("-c", COMMANDS, json.dumps(commands), **environment)
        assert result.returncode == 0, result.stderr
        return [Finished(*finished) for finished in json.loads(result.stdout)]

    def command(self, *command: str, **environment: str) -> Finished:
        (finished,) = self.commands(command, **environment)
        return finished

    def stored(self) -> list[str]:
        """Everything in the store, temporary folders included."""
        return sorted(path.name for path in self.store.iterdir()) if self.store.exists() else []

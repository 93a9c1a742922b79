"""Programs of tutorials that a test does not have, or that need a network.

`embedrt export HUB-ID` takes a bundle that was made before, `pip` checks that the extras exist, `docker` runs the steps
and the server of a Dockerfile without a container, `systemctl` starts the program of a unit, and `ssh` and `scp` stay
on this machine. Everything else is the real program.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tests.kit.pages import ROOT, text

_WORDS = re.compile(r"^(?:embedrt)\[([a-z,]+)\]$")


def main(program: str) -> None:
    """Run a program with the arguments of this process, and exit with its status."""
    sys.exit(PROGRAMS[program](sys.argv[1:]))


def _python(arguments: list[str]) -> int:
    """Python; an environment is a folder with nothing to activate."""
    if arguments[:2] != ["-m", "venv"]:
        _become(arguments)
    (folder := Path(arguments[2]) / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "activate").touch()
    return 0


def _become(arguments: list[str]) -> NoReturn:
    """Go on as Python with other arguments."""
    os.execv(sys.executable, [sys.executable, *arguments])


def _pip(arguments: list[str]) -> int:
    """Check that what is installed from an index can be: extras of embedrt."""
    command, *packages = [word for word in arguments if not word.startswith("-")]
    assert command == "install", arguments
    extras = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    for package in packages:
        found = _WORDS.match(package)
        assert found, f"no package of embedrt: {package}"
        assert set(found[1].split(",")) <= set(extras), package
    return 0


def _embedrt(arguments: list[str]) -> int:
    """The command; exports of hub ids are copies of bundles that were made before."""
    if arguments[0] != "export":
        _become(["-m", "embedrt", *arguments])
    models = dict(pair.split("=", 1) for pair in os.environ["STAND_IN_MODELS"].split(os.pathsep))
    bundle = models[" ".join(arguments[1:2] + _option(arguments, "--dtype"))]
    output = _option(arguments, "--output") or _option(arguments, "-o")
    target = Path(output[0]) if output else Path(os.environ["EMBEDRT_HOME"], "bundles", arguments[1].replace("/", "--"))
    shutil.copytree(bundle, target, copy_function=os.link)
    from embedrt.bundle.facts import proofs
    from embedrt.bundle.manifest import read_manifest

    print(target)
    print("\n".join(f"{label}: {value}" for label, value in proofs(read_manifest(target))))
    return 0


def _option(arguments: list[str], name: str) -> list[str]:
    """The value of an option in a list, or an empty list."""
    return [arguments[arguments.index(name) + 1]] if name in arguments else []


def _docker(arguments: list[str]) -> int:
    """Images are folders with the files of the last stage; a container is its entry point, as a process."""
    command, *rest = arguments
    if command == "rm":
        return 0
    return {"build": _build, "run": _run, "logs": _logs, "stop": _stop}[command](rest)


def _build(arguments: list[str]) -> int:
    from tests.container.__main__ import read

    (tag,) = _option(arguments, "--tag")
    image = _state(f"image-{tag}")
    stages = read(Path(arguments[-1], "Dockerfile").read_text(encoding="utf-8"))
    made: dict[str, Path] = {}
    for stage in stages:
        made[stage.name] = root = image / (stage.name or "last")
        root.mkdir(parents=True)
        for instruction, words in stage.steps:
            if instruction == "RUN":
                placed = re.sub(r"(?<= )/(?=\w)", f"{root}/", words)
                subprocess.run(["bash", "-eu", "-c", placed], cwd=root, check=True)
            elif instruction == "COPY":
                source, *names, target = words.split()
                for name in names:
                    shutil.copytree(made[source.removeprefix("--from=")] / name[1:], root / target[1:])
    steps = dict(stages[-1].steps)
    (image / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    return 0


def _run(arguments: list[str]) -> int:
    image = _state(f"image-{arguments[-1]}")
    steps = json.loads((image / "steps.json").read_text(encoding="utf-8"))
    (name,) = _option(arguments, "--name")
    (published,) = _option(arguments, "--publish")
    _, outside, inside = published.split(":")
    assert inside == steps["EXPOSE"]
    variables = dict(word.split("=", 1) for word in steps["ENV"].split() + _option(arguments, "--env"))
    variables["EMBEDRT_HOME"] = str(image / "tmp")
    health = json.loads(steps["HEALTHCHECK"].removeprefix("CMD "))
    assert f":{inside}/health" in health[-1]
    entry = [word.replace("=/", f"={image}/last/") for word in json.loads(steps["ENTRYPOINT"])]
    _start(name, [*entry, "--port", outside], variables)
    print(name)
    return 0


def _start(name: str, command: list[str], variables: dict[str, str]) -> None:
    """Start a server in the background."""
    log = _state(f"{name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=file, stderr=file, start_new_session=True
        )
    _state(f"{name}.pid").write_text(str(process.pid), encoding="utf-8")


def _logs(arguments: list[str]) -> int:
    print(_state(f"{arguments[0]}.log").read_text(encoding="utf-8"))
    return 0


def _stop(arguments: list[str]) -> int:
    os.kill(int(_state(f"{arguments[0]}.pid").read_text(encoding="utf-8")), signal.SIGTERM)
    return 0


def _systemctl(arguments: list[str]) -> int:
    """Start what a unit in the current folder runs; the home of its user is that folder."""
    *_, name = arguments
    unit = Path(f"{name}.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    (user,) = re.findall(r"^User=(.*)$", unit, re.MULTILINE)
    words = shlex.split(command.replace(f"/home/{user}", str(Path.cwd())))
    assert words[0].endswith("/.venv/bin/embedrt")
    _start(name, ["embedrt", *words[1:], "--port", os.environ["STAND_IN_PORT"]], {})
    return 0


def _sudo(arguments: list[str]) -> int:
    """Run a command as this user; copies into folders of the system are not made."""
    if arguments[0] == "cp":
        assert Path(arguments[1]).is_file()
        return 0
    return subprocess.run(arguments, check=False).returncode


def _scp(arguments: list[str]) -> int:
    """Check that what is copied is there; the other machine is this one."""
    *names, _ = [word for word in arguments if not word.startswith("-")]
    assert all(Path(name).exists() for name in names)
    return 0


def _state(name: str) -> Path:
    return Path(os.environ["STAND_IN_STATE"], name)


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "python": _python,
    "python3": _python,
    "pip": _pip,
    "embedrt": _embedrt,
    "docker": _docker,
    "systemctl": _systemctl,
    "sudo": _sudo,
    "ssh": lambda _: 0,
    "scp": _scp,
}

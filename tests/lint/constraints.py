"""Write constraints/NAME.txt: exact versions of all that the Makefile installs into an environment, for every platform.

    python tests/lint/constraints.py [NAME...]

The newest versions are taken that go together, for every Python from the lowest on. The environments of benchmarks have
no file: they are not in CI.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "constraints"
_INSTALL = re.compile(r"^\t-?\$\(call install,\$\((\w+)\)\) (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """What the Makefile installs into an environment.

    Attributes:
        requirements: The lines for pip, without the package itself.
        alone: Those of packages that are installed without their dependencies.
        lowest: The runtime dependencies have their lowest supported versions.
    """

    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()
    lowest: bool = False


def environments(makefile: str, pyproject: dict[str, Any]) -> dict[str, Environment]:
    """Every environment by name: `.venv-NAME` is the folder, `.venv` is "develop", and "build" makes the package."""
    folders = dict(re.findall(r"^(\w+) := \.venv-?([\w-]*)$", makefile, re.MULTILINE))
    pip = re.findall(r'^NEW_PIP := "(.+)"', makefile, re.MULTILINE)
    found = {"build": Environment((*pyproject["build-system"]["requires"], *pip))}
    for variable, arguments in _INSTALL.findall(makefile):
        name = folders[variable] or "develop"
        if not name.startswith("bench"):
            before = found.get(name, Environment(()))
            lines = requirements(arguments, pyproject)
            if "--no-deps" in arguments:
                found[name] = replace(before, alone=(*before.alone, *lines))
            else:
                lowest = before.lowest or "--constraint" in arguments
                found[name] = replace(before, requirements=(*before.requirements, *lines), lowest=lowest)
    return found


def requirements(arguments: str, pyproject: dict[str, Any]) -> list[str]:
    """The requirements that arguments of pip stand for: `--group NAME` and `".[EXTRA,EXTRA]"`."""
    lines = [
        line for group in re.findall(r"--group ([\w-]+)", arguments) for line in pyproject["dependency-groups"][group]
    ]
    if package := re.search(r'"\.\[(.+?)\]"', arguments):
        extras = pyproject["project"]["optional-dependencies"]
        lines += pyproject["project"]["dependencies"]
        lines += [line for extra in package[1].split(",") for line in extras[extra]]
    return lines


def resolve(environment: Environment, python: str) -> list[str]:
    """The lines of the file of an environment, for Python from this version on."""
    uv = [sys.executable, "-m", "uv"]
    command = [*uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python, "-"]
    # The lowest versions need not run on a later Python.
    command += ["--python-platform", "linux"] if environment.lowest else ["--universal"]

    def compiled(lines: tuple[str, ...], *options: str) -> list[str]:
        done = subprocess.run(
            [*command, *options], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.splitlines()

    with tempfile.TemporaryDirectory() as folder:
        floors = Path(folder) / "floors.txt"
        floors.write_bytes(subprocess.check_output([sys.executable, ROOT / "tests/lint/lowest.py"]))
        found = compiled(environment.requirements, *(["--constraint", str(floors)] if environment.lowest else []))
    return sorted(found + (compiled(environment.alone, "--no-deps") if environment.alone else []))


def main(names: list[str]) -> int:
    """Write the files of the named environments, or of all; returns the exit status."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    known = environments((ROOT / "Makefile").read_text(encoding="utf-8"), pyproject)
    if unknown := sorted({*names} - {*known}):
        print(f"constraints: expected names among {', '.join(known)}, got {', '.join(unknown)}")
        return 2
    FOLDER.mkdir(exist_ok=True)
    for name in names or known:
        lines = resolve(known[name], pyproject["project"]["requires-python"].removeprefix(">="))
        (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"constraints/{name}.txt: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

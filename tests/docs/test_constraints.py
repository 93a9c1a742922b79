"""Exact versions that CI installs: a file for every environment, with all that pyproject.toml asks for."""

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.kit.pages import ROOT, text
from tests.lint.constraints import environments, requirements

PYPROJECT: dict[str, Any] = tomllib.loads(text(ROOT / "pyproject.toml"))
MAKEFILE = text(ROOT / "Makefile")
KNOWN = environments(MAKEFILE, PYPROJECT)


def versions(name: str) -> dict[str, list[str]]:
    """The exact versions in a file by package, which may have one for each of several platforms."""
    found: dict[str, list[str]] = {}
    for line in text(ROOT / f"constraints/{name}.txt").splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        found.setdefault(canonicalize_name(requirement.name), []).append(specifier.version)
    return found


def test_each_environment_has_a_file() -> None:
    assert {"build", "develop", "runtime", "lowest", "clients", "reference", "optimum", "cuda"} <= {*KNOWN}
    assert {path.stem for path in (ROOT / "constraints").iterdir()} == {*KNOWN}


def test_nothing_is_installed_in_another_way() -> None:
    """But for pip itself."""
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t") and "install" in line]
    others = [line.split()[0] for line in recipes if "$(call install" not in line]
    assert others == ["tests/arm64/install.sh"]  # an emulated Debian
    assert MAKEFILE.count("$(PIP_INSTALL)") == 1
    without_python = {"browser", "languages"}  # packages of Debian, and of npm with a lock file
    assert set(re.findall(r"\.venv-([\w-]+)/", text(ROOT / ".ci/run"))) <= {*KNOWN, *without_python}


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_has_what_its_environment_needs(name: str) -> None:
    """`make constraints` writes it again."""
    pinned = versions(name)
    for line in (*KNOWN[name].requirements, *KNOWN[name].alone):
        needed = Requirement(line)
        found = pinned[canonicalize_name(needed.name)]
        assert [*needed.specifier.filter(found)], f"{line}: constraints/{name}.txt has {', '.join(found)}"


def test_arguments_of_pip() -> None:
    project = {
        "project": {"dependencies": ["a>=1"], "optional-dependencies": {"b": ["c>=2"], "d": ["e>=3"]}},
        "dependency-groups": {"f": ["g>=4"], "h-i": ["j>=5"]},
    }
    assert requirements('--group f --group h-i --editable ".[b,d]"', project) == [
        "g>=4",
        "j>=5",
        "a>=1",
        "c>=2",
        "e>=3",
    ]
    assert requirements("--group f", project) == ["g>=4"]

"""Print constraints that pin every runtime dependency of pyproject.toml to its lowest supported version.

python tests/lint/lowest.py > constraints.txt
"""

import re
import tomllib
from pathlib import Path

# Extras that install on any machine, and can be installed at once.
EXTRAS = ("cpu", "export", "storage")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<version>[0-9.]+)")


def constraints(pyproject: Path) -> list[str]:
    """One line for every dependency; a dependency without a floor is an error."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
    ]
    found: dict[str, str] = {}
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"{pyproject.name}: expected NAME>=VERSION, got {requirement!r}")
        if found.setdefault(match["name"], match["version"]) != match["version"]:
            raise SystemExit(f"{pyproject.name}: two floors for {match['name']}")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(constraints(Path(__file__).parents[2] / "pyproject.toml")))

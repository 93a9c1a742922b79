"""Write dist/embedrt.cdx.json: the software bill of materials of an environment, which has the runtime, in CycloneDX.

    python tests/lint/sbom.py PYTHON

PYTHON is the interpreter of that environment.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "dist" / "embedrt.cdx.json"
# Extras that need other hardware, and would overwrite files of the extra `cpu`.
NOT_COVERED = {"gpu", "openvino"}

Json = dict[str, Any]


def subject(document: Json) -> Json:
    """The document of an environment as that of embedrt: it is the subject, and no path of this machine is named."""
    (own,) = (component for component in document["components"] if component["name"] == "embedrt")
    others = [component for component in document["components"] if component is not own]
    kept = {key: value for key, value in own.items() if key != "externalReferences"}
    kept["purl"] = f"pkg:pypi/embedrt@{own['version']}"
    metadata = {**document["metadata"], "component": kept}
    return {**document, "metadata": metadata, "components": others}


def missing(document: Json, pyproject: Json) -> list[str]:
    """Direct dependencies that the document lacks."""
    extras = pyproject["project"]["optional-dependencies"]
    lines = [*pyproject["project"]["dependencies"]]
    lines += [line for extra in extras if extra not in NOT_COVERED for line in extras[extra]]
    needed = {canonicalize_name(Requirement(line).name) for line in lines}
    return sorted(needed - {canonicalize_name(component["name"]) for component in document["components"]})


def main(python: str) -> int:
    """Write the file; returns the exit status."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--output-format", "JSON"]
    document = subject(json.loads(subprocess.check_output([*command, python], cwd=ROOT)))
    if lacking := missing(document, tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))):
        print(f"sbom: expected every direct dependency, {', '.join(lacking)} is not in the environment of {python}")
        return 1
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {len(document['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Check that a tag, the version of the package, the changelog and the files in dist/ belong together.

python tests/lint/release.py v0.2.0
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def mistakes(tag: str, version: str, changelog: str, files: list[str]) -> list[str]:
    """Reasons not to publish; none if all is well."""
    found = []
    if tag != f"v{version}":
        found.append(f"tag: expected v{version}, the version in embedrt/_version.py, got {tag}")
    headings = [line for line in changelog.splitlines() if line.startswith("## ")]
    first = headings[0] if headings else "no heading"
    if not first.startswith(f"## {version} ("):
        found.append(f"CHANGELOG.md: expected '## {version} (DATE)' as the first heading, got {first!r}")
    expected = {f"embedrt-{version}-py3-none-any.whl", f"embedrt-{version}.tar.gz"}
    if {*files} != expected:
        found.append(f"dist/: expected {' and '.join(sorted(expected))}, got {', '.join(sorted(files)) or 'no file'}")
    return found


def main(tag: str) -> int:
    """Print the mistakes; returns the exit status."""
    scope: dict[str, str] = {}
    exec((ROOT / "embedrt/_version.py").read_text(encoding="utf-8"), scope)
    files = [path.name for path in (ROOT / "dist").glob("*") if path.name.endswith((".whl", ".tar.gz"))]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = mistakes(tag, scope["__version__"], changelog, files)
    print(*(found or [f"{tag} can be published"]), sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

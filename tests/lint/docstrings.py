"""Find docstrings whose first word turns the line into a clause: a noun phrase or an imperative reads at once.

Usage: `python tests/lint/docstrings.py FOLDER...`; prints one line a finding, and exits with 1 if there is any.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CLAUSES = {"What", "Whether", "How", "Where"}


def clauses(source: str) -> Iterator[tuple[int, str]]:
    """The line number and the first line of each docstring that begins with a clause."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if text.partition(" ")[0] in CLAUSES:
                yield node.body[0].lineno, text.splitlines()[0]


def main(folders: list[str]) -> int:
    """Print the findings of all Python files below the folders; returns the exit status."""
    found = [
        f"{path}:{line}: docstring begins with a clause: {text}"
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for line, text in clauses(path.read_text(encoding="utf-8"))
    ]
    print(*found, sep="\n" if found else "", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

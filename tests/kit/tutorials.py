"""Tutorials as tests read them: files to save, commands to paste, and the output that follows."""

import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.kit.pages import ROOT, text

FOLDER = ROOT / "docs" / "tutorials"
_FENCE = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"(?P<any>\.\.\.)|(?P<number>-?\d+\.\d+)(?![\d.e])")


@dataclass(frozen=True)
class Step:
    """A code block of a tutorial.

    Attributes:
        kind: The language of the block.
        title: The name of the file to save it as; empty if it is not a file.
        content: Its lines.
    """

    kind: str
    title: str
    content: str


def steps(page: Path) -> list[Step]:
    """The code blocks of a page, in order."""
    return [Step(*found.groups(default="")) for found in _FENCE.finditer(text(page))]


def follow(page: Path, folder: Path, environment: dict[str, str], shorter: dict[str, str]) -> None:
    """Do what a tutorial says, in a folder, from top to bottom, and compare what commands print.

    Args:
        page: The tutorial.
        folder: An empty folder.
        environment: Variables of the commands.
        shorter: Parts of commands and outputs, with what stands in for them.

    Raises:
        AssertionError: A command fails, or its output is not the one of the page.
    """
    output = ""
    for step in steps(page):
        if step.title:
            (folder / step.title).write_text(step.content, encoding="utf-8")
            continue
        content = step.content
        for part, other in shorter.items():
            content = content.replace(part, other)
        if step.kind == "sh":
            done = subprocess.run(
                ["bash", "-eu", "-c", content],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=500,
                check=False,
            )
            output = done.stdout
            assert done.returncode == 0, f"{content}\n{output[-3000:]}"
        else:
            assert step.kind == "text", f"{page.name}: a block of {step.kind} has no title"
            compare(content, output)


def compare(expected: str, got: str) -> None:
    """Compare output with that of a page.

    "..." stands for anything, and decimals may differ by 0.015. "0.6..." is a number that begins so.

    Raises:
        AssertionError: They differ.
    """
    pattern, numbers, end = "", [], 0
    for found in _VARIABLE.finditer(expected.strip()):
        pattern += re.escape(expected.strip()[end : found.start()])
        if found["number"] is None:
            pattern += ".*?"
        else:
            pattern += r"(-?\d+\.\d+)"
            numbers.append(float(found["number"]))
        end = found.end()
    pattern += re.escape(expected.strip()[end:])
    difference = f"expected:\n{expected}\ngot:\n{got}"
    matched = re.fullmatch(pattern, got.strip(), re.DOTALL)
    assert matched, difference
    for wanted, number in zip(numbers, matched.groups(), strict=True):
        assert math.isclose(wanted, float(number), abs_tol=0.015), difference


def programs(folder: Path, models: dict[str, Path]) -> dict[str, str]:
    """Make the programs that a tutorial calls, and the environment that finds them.

    Programs that cannot run in a test, and those that need a network, are those of `tests.kit.stand_ins`.

    Args:
        folder: A folder for the programs.
        models: Bundles by the id of their model on the hub.
    """
    from tests.kit.stand_ins import PROGRAMS

    folder.mkdir(parents=True)
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f"#!{sys.executable}\nfrom tests.kit.stand_ins import main\nmain({name!r})\n")
        program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "STAND_IN_MODELS": os.pathsep.join(f"{name}={bundle}" for name, bundle in models.items()),
    }

"""Promises of SECURITY.md: each names tests that exist and are collected."""

import re
import subprocess
import sys

import pytest

from tests.kit.pages import ROOT, text

PAGE = ROOT / "SECURITY.md"


def promises() -> dict[str, list[str]]:
    """Titles of the promises, with the tests that they name."""
    sections = re.findall(r"^### (\d+\. .+?)\n(.*?)(?=^###? |\Z)", text(PAGE), re.MULTILINE | re.DOTALL)
    return {title: re.findall(r"^- `(tests/[\w/]+\.py::[\w:]+)`$", body, re.MULTILINE) for title, body in sections}


def test_twelve_promises_with_tests() -> None:
    assert [title.partition(".")[0] for title in promises()] == [str(i) for i in range(1, 13)]
    for title, tests in promises().items():
        assert len(tests) >= 3, title
        assert len(set(tests)) == len(tests), title
    assert len(re.findall("tests/", text(PAGE))) == sum(map(len, promises().values()))


@pytest.mark.subprocess
def test_every_named_test_is_collected() -> None:
    named = {test for tests in promises().values() for test in tests}
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    collected = {re.sub(r"\[.*", "", line) for line in done.stdout.splitlines() if "::" in line}
    assert not sorted(named - collected)

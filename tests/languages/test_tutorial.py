"""The steps of the tutorial, in order: what it says to install, copy and open is what the tests use."""

import json
import re
import shlex

from docs.hooks import DOWNLOADS
from tests.kit.pages import ROOT, shell_lines, text
from tests.languages.conftest import LANGUAGES, needs_node

TUTORIAL = ROOT / "docs" / "tutorials" / "browser.md"
PAGE = ROOT / "examples" / "browser" / "index.html"


def test_the_libraries_are_those_that_are_tested() -> None:
    (line,) = [line for line in shell_lines(TUTORIAL) if line.startswith("npm ")]
    program, command, *packages = shlex.split(line)
    assert (program, command) == ("npm", "install")
    tested = json.loads((ROOT / "tests" / "languages" / "package.json").read_bytes())["dependencies"]
    assert set(packages) <= set(tested)
    assert f"npm install {' '.join(packages)}" in text(PAGE)


@needs_node
def test_the_files_to_publish_are_there_and_those_of_the_page() -> None:
    named = set(re.findall(r"`((?:@huggingface|onnxruntime-web)/[\w./-]+)`", text(TUTORIAL)))
    assert len(named) == 4
    assert not [name for name in named if not (LANGUAGES / "node_modules" / name).is_file()]
    imported = set(re.findall(r'"\./node_modules/([^"]+)"', text(PAGE)))
    assert len(imported) == 2
    assert imported <= named


def test_the_page_to_save_is_the_one_that_is_tested() -> None:
    assert f"](../{next(iter(DOWNLOADS))})" in text(TUTORIAL)
    assert ROOT / DOWNLOADS["browser-search.html"] == PAGE
    for line in ("embedrt export sentence-transformers/all-MiniLM-L6-v2 -o bundle", "python3 -m http.server"):
        assert line in text(TUTORIAL)
        assert line in text(PAGE)
